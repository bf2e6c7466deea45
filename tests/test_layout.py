"""The shape of the package: what it exports, what imports what, and what importing it costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

import ladm_hf
from ladm_hf import errors

# Each line may import from the lines below it and from its own line.
LAYERS = [
    ["cli", "__main__"],
    ["demo", "environment", "integrations"],
    ["runner", "hub", "metric", "training", "reproduce", "report", "prepare", "chunks"],
    ["publication", "read_back"],
    ["repository"],
    ["bundle"],
    ["scorer", "card", "plots"],
    ["card_block", "front_matter"],
    ["engine"],
    ["llama"],
    ["attention", "batching", "calculators", "documents", "selection", "inputs", "journal", "heartbeat", "progress"],
    ["json_lines", "parquet_files", "ranking", "run_lock", "run_folder"],
    ["pool", "options", "patience", "ranks", "sources", "markdown"],
    ["ops", "scores"],
    ["spans"],
    ["config"],
    ["errors", "version"],
]
FREE_OF_TORCH = ["errors", "config", "spans", "selection", "card", "plots", "cli"]


def modules() -> dict[str, list[Path]]:
    package = ROOT / "ladm_hf"
    found: dict[str, list[Path]] = {}
    for path in package.rglob("*.py"):
        name = path.relative_to(package).parts[0].removesuffix(".py")
        found.setdefault(name, []).append(path)
    return found


def imports(path: Path, *, top_level: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    names: set[str] = set()
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_imports_point_downwards() -> None:
    levels = {name: level for level, names in enumerate(LAYERS) for name in names}
    for name, paths in modules().items():
        if name == "__init__":
            continue
        assert name in levels, f"{name} has no place in LAYERS"
        for imported in set().union(*map(imports, paths)):
            parts = imported.split(".")
            if parts[0] == "ladm_hf" and len(parts) > 1 and parts[1] in levels:
                assert levels[parts[1]] >= levels[name], f"{name} imports {parts[1]}"


@pytest.mark.parametrize("name", FREE_OF_TORCH)
def test_modules_that_load_no_torch(name: str) -> None:
    if name not in modules():
        pytest.skip(f"there is no module {name}")
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
