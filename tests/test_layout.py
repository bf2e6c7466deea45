"""The shape of the package: its rooms, what imports what, what it exports, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import ROOT

import ladm_hf
from ladm_hf import errors

PACKAGE = ROOT / "ladm_hf"
# Each line may import from the lines below it.
LAYERS = [
    ["__main__"],
    ["cli"],
    ["checks"],
    ["publishing"],
    ["training", "runs", "report", "integrations"],
    ["scoring"],
    ["ops", "calculators", "selection"],
    ["data", "ranks", "stats"],
    ["config"],
    ["errors", "version", "text", "arrays"],
]
FREE_OF_TORCH = ["errors", "config", "selection.selection", "publishing.card", "report.plots", "cli.app"]


@pytest.mark.parametrize("name", FREE_OF_TORCH)
def test_modules_that_load_no_torch(name: str) -> None:
    program = f"import sys, ladm_hf.{name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


def test_importing_the_package_is_light() -> None:
    program = (
        # of the processor, not of the clock, so that a busy machine fails nothing
        "import sys, time; start = time.process_time(); import ladm_hf; took = time.process_time() - start;"
        "heavy = {'torch', 'transformers', 'datasets', 'matplotlib', 'numpy'} & set(sys.modules);"
        "sys.exit(f'{took} {heavy}' if took > 0.3 or heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_public_name_can_be_had_and_no_other() -> None:
    for name in ladm_hf.__all__:
        assert getattr(ladm_hf, name) is not None
    assert sorted(ladm_hf.__all__) == sorted([*ladm_hf._HOMES, "__version__"])
    assert dir(ladm_hf) == sorted(ladm_hf.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        ladm_hf.nonsense  # noqa: B018


def test_every_error_is_in_the_tree_of_its_docstring() -> None:
    assert errors.__doc__ is not None
    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, Exception):
            assert name in errors.__doc__
            assert issubclass(value, errors.LadmError)
