"""The `hf` command line runs this one as an extension, from where `hf extensions install` puts it."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from conftest import ROOT

from ladm_hf import __version__

extensions = pytest.importorskip("huggingface_hub.cli.extensions")
SCRIPT = """
import sys
from {module} import {name}

sys.exit({name}())
"""


@pytest.fixture
def hf(tmp_path: Path) -> dict[str, str]:
    """An environment in whose home the declared script `hf-ladm` is installed as an extension."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]["hf-ladm"]
    module, name = declared.split(":")
    folder = tmp_path / extensions.EXTENSIONS_ROOT.relative_to("~") / "hf-ladm"
    folder.mkdir(parents=True)
    script = folder / "hf-ladm"
    script.write_text(f"#!{sys.executable}\n{SCRIPT.format(module=module, name=name)}", encoding="utf-8")
    script.chmod(0o755)
    extensions.ExtensionManifest(
        owner="owner",
        repo="hf-ladm",
        repo_id="owner/hf-ladm",
        short_name="ladm",
        executable_path=str(script),
        type="python",
        installed_at=datetime.now(UTC),
        description="LADM",
    ).save(folder)
    return os.environ | {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_UPDATE_CHECK": "1"}


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "huggingface_hub.cli.hf", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_hf_runs_the_extension_and_lists_it(hf: dict[str, str]) -> None:
    done = run(hf, "ladm", "--version")
    assert (done.returncode, done.stdout.split()[-1]) == (0, __version__), done.stderr
    assert "ladm" in run(hf, "--help").stdout


def test_exit_codes_and_messages_pass_through_hf(hf: dict[str, str], tmp_path: Path) -> None:
    done = run(hf, "ladm", "report", str(tmp_path / "nothing"))
    assert done.returncode == 1
    assert "nothing" in done.stderr
    assert run(hf, "ladm", "score", "--no-such-option").returncode == 2
