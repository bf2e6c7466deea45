"""Makes `evaluate.load("ladm")` find `ladm_hf.integrations.evaluate`: one hook, on the import of `evaluate.loading`.

`evaluate` reads no entry points, so the wheel carries a start-up line (`ladm_hf.pth`, and `ladm_hf.start` for Pythons
with PEP 829) that calls [`install`]. It adds one finder, which does nothing until `evaluate.loading` is imported and
then wraps its `evaluation_module_factory`: the name `ladm` is answered by `ladm_hf.integrations.evaluate`, every other
by the original. `import ladm_hf` does the same where start-up lines do not run. `LADM_HF_NO_AUTOLOAD=1` turns both off.

This module stands beside the package, not inside it: an interpreter's start must leave `ladm_hf` itself unimported,
or a checkout could no longer be put before the installed one on `sys.path`. And it imports nothing that a starting
interpreter does not hold already.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SWITCH = "LADM_HF_NO_AUTOLOAD"
NAME = "ladm"
TARGET = "evaluate.loading"
METRIC = "ladm_hf.integrations.evaluate"


def install() -> None:
    """Registers the metric's name with `evaluate`, now or when it is imported. Calling it again changes nothing."""
    if os.environ.get(SWITCH, "") not in ("", "0"):
        return
    if TARGET in sys.modules:
        answer_name(sys.modules[TARGET])
    if not any(isinstance(finder, LadmLoadHook) for finder in sys.meta_path):
        sys.meta_path.insert(0, LadmLoadHook())


class LadmLoadHook:
    """A finder that lets the others find `evaluate.loading` and patches the module once it has run.

    It stays in place afterwards, so that a module that is reloaded or imported afresh is patched too: taking an entry
    out of `sys.meta_path` while another thread walks along it would make that thread miss a finder.
    """

    def find_spec(self, name: str, path: "Any" = None, target: "Any" = None) -> "Any":
        if name != TARGET or self not in sys.meta_path:
            return None
        # the finders before this one have declined already
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            find_spec = getattr(finder, "find_spec", None)
            spec = find_spec(name, path, target) if find_spec else None
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    _patch_after_execution(spec.loader)
                return spec
        return None


def _patch_after_execution(loader: "Any") -> None:
    run = loader.exec_module

    def exec_module(module: "Any") -> None:
        run(module)
        answer_name(module)

    loader.exec_module = exec_module


def answer_name(loading: "Any") -> None:
    """Wraps the module factory of `evaluate.loading`, which `load`, `combine` and names bound earlier all go through.

    A folder `./ladm` with a `ladm.py`, another module type and an explicit revision keep their meaning.
    """
    original = getattr(loading, "evaluation_module_factory", None)
    if original is None or getattr(original, "answers_ladm", False):
        return
    import functools
    import hashlib

    @functools.wraps(original)
    def evaluation_module_factory(path: str, module_type: "Any" = None, *args: "Any", **kwargs: "Any") -> "Any":
        ours = path == NAME and module_type in (None, "metric") and not args and kwargs.get("revision") is None
        if not ours or os.path.isfile(os.path.join(NAME, f"{NAME}.py")):
            return original(path, module_type, *args, **kwargs)
        from ladm_hf.version import __version__

        return loading.ImportableModule(METRIC, hashlib.sha256(f"ladm_hf {__version__}".encode()).hexdigest())

    evaluation_module_factory.answers_ladm = True  # type: ignore[attr-defined]
    loading.evaluation_module_factory = evaluation_module_factory
