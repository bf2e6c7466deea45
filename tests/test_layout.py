"""The shape of the package: its rooms, what imports what, what it exports, and what importing it costs."""

from __future__ import annotations

import ast
import functools
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

import ladm_hf
from ladm_hf import errors

PACKAGE = ROOT / "ladm_hf"
# The rooms and the files at the top. Each line may import from the lines below it; a room also within itself.
LAYERS = [
    ["__main__"],
    ["cli"],
    ["checks"],
    ["publishing"],
    ["training", "runs", "report", "integrations", "packing"],
    ["scoring"],
    ["ops", "calculators", "selection"],
    ["data", "ranks", "stats"],
    ["config"],
    ["errors", "version", "text", "arrays"],
]
FILES = {
    "calculators": "calculator files hub live loading token_ids",
    "checks": "demo environment reproduce",
    "cli": "app calibrate checks compare job_options job_quote jobs options pack prepare publish score "
    "score_options scoring select terminal train",
    "data": "arrow_types columns content data_files file_systems files hub inference json_lines loaded "
    "object_store open parquet repositories results row_files rows run_record schemas score_columns "
    "shards sources storable storage store_errors streams temporary writer",
    "integrations": "datatrove evaluate ray_data",
    "ops": "blockwise causal chunked device distant float8 fused hopper naive pointwise rms_norm scores spans tiled "
    "windowed",
    "packing": "best_fit documents formats minimum_slack mixture pack record sequences tokenizer",
    "publishing": "account bundle card card_block front_matter limits publication publish repository retry verify",
    "report": "comparison focus_plot heat_maps matrix page parts plots style tables",
    "runs": "ahead cascade chunk_files chunk_records chunk_scorer chunks estimate flavors folder job_spec jobs jsonl "
    "launch lock monitor objects open output plan prepare prepared prepared_files progress runner speeds uploads "
    "workers",
    "scoring": "architecture attention batching begun call decoder encoder engine focus_map forms host identity "
    "inputs journal layers loader losses observation precision product reading recorder repetition results rows "
    "runtime scorer text_signals trial",
    "selection": "bands commands compare comparison folder notes options percentile pool ranking read reasons result "
    "selection signals split table",
    "training": "averaging batches calibration contrasts degenerate documents expansion figures heads labelled library "
    "mix model objective perturbations plots pools recipe search templates tokenizer trainer windows",
}
# Everything in these; the rest of the package may load torch.
FREE_OF_TORCH = [
    "cli",
    "data",
    "packing",
    "publishing",
    "report",
    "selection",
    "config",
    "errors",
    "ranks",
    "stats",
    "text",
]
HAND_NAMES_ON = ["ops", "training"]


@functools.cache
def modules() -> dict[str, Path]:
    """Every module by its dotted name, without the package's face and the files that only make a folder a room."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if not name.endswith("__init__") or name.removesuffix(".__init__") in HAND_NAMES_ON:
            found[name.removesuffix(".__init__")] = path
    return found


def imported(path: Path) -> Iterator[str]:
    """Modules of ours that a module imports anywhere, also lazily or for types alone, without `ladm_hf.`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            if name.split(".")[0] == "ladm_hf":
                yield name.removeprefix("ladm_hf").removeprefix(".")


def module_of(name: str) -> str:
    """The module that an imported name lies in: `ops.spans.SpanGrid` in `ops.spans`, `ops.BACKENDS` in `ops`."""
    parts = name.split(".")
    return next((known for n in (2, 1) if (known := ".".join(parts[:n])) in modules()), "")


def test_the_top_of_the_package_fits_on_a_screen() -> None:
    listed = [path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert len(listed) <= 23
    assert set(FILES) == {path.name for path in PACKAGE.iterdir() if path.is_dir()} - {"__pycache__"}


def test_every_file_has_its_place_and_is_there() -> None:
    top = set(itertools.chain(*LAYERS)) - set(FILES)
    expected = top | {f"{room}.{file}" for room, files in FILES.items() for file in files.split()}
    assert set(modules()) == expected | set(HAND_NAMES_ON)


def test_rooms_have_one_line_that_says_what_they_are_for() -> None:
    for room in set(FILES) - set(HAND_NAMES_ON):
        lines = (PACKAGE / room / "__init__.py").read_text(encoding="utf-8").splitlines()
        assert len(lines) == 1, f"{room}/__init__.py is more than its docstring"
        assert lines[0].startswith('"""')


def test_imports_between_rooms_point_downwards() -> None:
    levels = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
    for name, path in modules().items():
        room = name.split(".")[0]
        for other in imported(path):
            target = other.split(".")[0]
            assert target in levels, f"{name} imports ladm_hf itself: take {target or 'names'} from where it lies"
            assert target == room or levels[target] > levels[room], f"{name} imports {other}"


def test_no_files_of_a_room_import_each_other_in_a_circle() -> None:
    below = {
        name: {module_of(other) for other in imported(path) if other.split(".")[0] == name.split(".")[0]}
        for name, path in modules().items()
    }
    while left := {name: others & set(below) for name, others in below.items() if others & set(below)}:
        # what imports nothing that is left is in no circle
        assert len(left) < len(below), f"a circle among {', '.join(sorted(left))}"
        below = left


@pytest.mark.parametrize("room", FREE_OF_TORCH)
def test_rooms_that_load_no_torch(room: str) -> None:
    names = [f"ladm_hf.{name}" for name in modules() if name.split(".")[0] == room]
    assert names
    program = f"import sys, {', '.join(names)}; sys.exit('torch' in sys.modules)"
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
