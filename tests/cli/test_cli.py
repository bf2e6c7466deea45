from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from typer.testing import CliRunner

from ladm_hf import __version__
from ladm_hf.checks.environment import PACKAGES
from ladm_hf.cli.app import app

runner = CliRunner()


def test_version_and_help() -> None:
    assert runner.invoke(app, ["--version"]).output.strip() == f"ladm_hf {__version__}"
    done = runner.invoke(app, ["--help"])
    for name in ("demo", "env"):
        assert name in done.output
    assert runner.invoke(app, []).output.strip() == done.output.strip()


def test_help_is_quick_and_loads_no_torch() -> None:
    program = (
        "import sys, time, runpy; sys.argv = ['ladm', '--help']\n"
        "try: runpy.run_module('ladm_hf', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'datasets', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else time.process_time() > 5)"
    )
    # processor time, since tests share their machine; on a quiet one it takes less than a second
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_env_is_a_report_to_paste(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LADM_MODEL", "ladm-nano")
    done = runner.invoke(app, ["env"])
    assert done.exit_code == 0
    for name in ("ladm_hf", "python", "platform", "accelerators", "calculator", "$LADM_MODEL", *PACKAGES):
        assert f"\n{name}" in f"\n{done.output}"
    assert "ladm_config.json" in done.output


def test_env_reports_a_calculator_that_cannot_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LADM_MODEL", "./no/such/folder here")
    done = runner.invoke(app, ["env"])
    assert done.exit_code == 0
    assert "cannot be found" in done.output


def test_an_error_is_one_line_and_no_traceback(tmp_path) -> None:
    done = runner.invoke(app, ["demo", "--model", str(tmp_path), "--output", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert done.output.splitlines()[-1].startswith("error: ")
    assert "has no config.json" in done.output.splitlines()[-1]
    assert "Traceback" not in done.output


@pytest.mark.parametrize("place", ["file", "file/below"])
@pytest.mark.parametrize(
    "command", ["score POOL OUT", "prepare POOL OUT", "report OUT", "demo --output OUT", "score --status OUT"]
)
def test_a_file_in_place_of_a_folder_is_one_line(command: str, place: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "pool.jsonl").write_text('{"text": "one"}\n')
    words = command.replace("POOL", str(tmp_path / "pool.jsonl")).replace("OUT", str(tmp_path / place)).split()
    done = runner.invoke(app, words)
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    assert done.output.splitlines()[-1].startswith("error: ")
    assert str(tmp_path / "file") in done.output.splitlines()[-1]
