"""The pipelines of `examples/`, killed and run again: the rows of `ladm score`, none scored twice."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from launches import ROOT, environment, kill, rows, scored_by_the_command

EXAMPLES = ROOT / "examples"
FILES, DOCUMENTS = 4, 5


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of rows without a text, with nulls, with integers that no float holds, and with one column more."""
    folder = tmp_path_factory.mktemp("pool")
    found: list[dict[str, Any]] = rows(FILES * DOCUMENTS, words=1200)
    for number, row in enumerate(found):
        row |= {"number": None if number % 4 == 1 else 2**60 + number, "tags": [] if number % 3 else None}
    found[3]["text"], found[8]["text"] = None, ""
    table = pa.Table.from_pylist(found)
    for number in range(FILES):
        part = table.slice(number * DOCUMENTS, DOCUMENTS)
        pq.write_table(part, folder / f"part-{number}.parquet", row_group_size=2)
    return folder


@pytest.fixture(scope="module")
def calculator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ladm-nano with a geometry for short documents."""
    folder = tmp_path_factory.mktemp("calculators") / "calculator"
    shutil.copytree(ROOT / "ladm_hf" / "calculators" / "ladm_nano", folder)
    file = folder / "ladm_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "span_length": 64, "max_length": 2048}))
    return folder


def start(script: str, *arguments: Path | str, before: str = "") -> subprocess.Popen[str]:
    program = f"{before}\nimport runpy; runpy.run_path({str(EXAMPLES / script)!r}, run_name='__main__')"
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)], cwd=ROOT, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def wait_until(reached: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while not reached():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "the pipeline makes no progress"
        time.sleep(0.05)


def ended(process: subprocess.Popen[str]) -> None:
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said


def written(folder: Path) -> pa.Table:
    """The rows of a pipeline, in the order of its files' names."""
    return pa.concat_tables([pq.read_table(file) for file in sorted(folder.glob("*.parquet"))])


def journalled(journal: Path) -> int:
    """Documents in the files of a journal, each as often as it was scored."""
    return sum(file.stat().st_size for file in journal.rglob("*.rows")) // 32


@pytest.fixture(scope="module")
def want(pool: Path, calculator: Path, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """What `ladm score` writes."""
    output = tmp_path_factory.mktemp("run") / "scored"
    table = written(scored_by_the_command(pool, output, "--model", str(calculator)) / "data")
    assert set(table["ladm_status"].to_pylist()) == {"ok", "null", "empty", "too_short"}
    return table


def assert_same(found: pa.Table, want: pa.Table) -> None:
    """The same types, rows and order, equal to the bit."""
    assert found.schema.equals(want.schema)
    # by their text, in which NaN equals itself
    assert list(map(repr, found.to_pylist())) == list(map(repr, want.to_pylist()))


@pytest.fixture
def ray_start() -> Iterator[str]:
    """Starts Ray in a short folder, for the sockets in it, with processors for actors and for reading."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        yield (
            "import os; os.environ.update(RAY_DATA_DISABLE_PROGRESS_BARS='1', RAY_USAGE_STATS_ENABLED='0')\n"
            f"import ray; ray.init(num_cpus=3, include_dashboard=False, logging_level='ERROR', _temp_dir={folder!r})"
        )


@pytest.mark.timeout(600)
def test_ray_data(pool: Path, calculator: Path, want: pa.Table, tmp_path: Path, ray_start: str) -> None:
    pytest.importorskip("ray", reason="needs ladm-hf[ray]")
    scored, journal = tmp_path / "scored", tmp_path / "journal"

    def run() -> subprocess.Popen[str]:
        return start(
            "ray_rows.py", pool, scored, "--journal", journal, "--model", calculator, "--gpus", "0", before=ray_start
        )

    driver = run()
    wait_until(lambda: journalled(journal) >= 2, driver)
    kill(driver)
    assert not scored.exists()
    done = journalled(journal)

    driver = run()
    wait_until(lambda: journalled(journal) >= done + 2, driver)
    actors = [process for process in psutil.Process(driver.pid).children(recursive=True) if _is_scorer(process)]
    assert actors
    for actor in actors:
        actor.kill()
    ended(driver)
    assert_same(written(scored), want)
    assert journalled(journal) == want["ladm_status"].to_pylist().count("ok")
    assert not list(tmp_path.glob("*.unfinished"))


def _is_scorer(process: psutil.Process) -> bool:
    try:
        return any("MapBatches(RowScorer)" in part or "MapWorker" in part for part in process.cmdline())
    except psutil.Error:
        return False


@pytest.mark.timeout(600)
def test_datatrove(pool: Path, calculator: Path, want: pa.Table, tmp_path: Path) -> None:
    pytest.importorskip("datatrove", reason="needs ladm-hf[datatrove]")
    scored, logs, journal = tmp_path / "scored", tmp_path / "logs", tmp_path / "journal"

    def run(part: str) -> subprocess.Popen[str]:
        return start(
            "datatrove_rows.py", pool, scored, logs, "--model", calculator, "--journal", journal, "--part", part
        )

    def complete() -> set[str]:
        return set(os.listdir(logs / "completions")) if (logs / "completions").is_dir() else set()

    killed = run("0/1")
    wait_until(lambda: len(complete()) >= 1, killed)
    kill(killed)
    done = {name: (scored / f"{name}.parquet").stat().st_mtime_ns for name in complete()}
    assert 0 < len(done) < FILES

    parts = [run("0/2"), run("1/2")]
    for part in parts:
        ended(part)
    assert len(complete()) == FILES
    assert {name: (scored / f"{name}.parquet").stat().st_mtime_ns for name in done} == done
    assert_same(written(scored), want)
    assert journalled(journal) == want["ladm_status"].to_pylist().count("ok")
