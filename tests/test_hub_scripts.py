"""The scripts for `uv run` and Jobs: their headers, and real documents from pool to published selection."""

import importlib
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset, load_dataset
from huggingface_hub import DatasetCard
from typer.testing import CliRunner

from fake_hub.fixtures import fake_hub, hub_process  # noqa: F401
from ladm_hf.cli.app import app

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "hub_scripts").glob("*.py"))
CORPUS = ROOT.parent / "shared" / "data" / "corpus" / "dev.parquet"


def run(script, *arguments, monkeypatch):
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    runpy.run_path(str(ROOT / "hub_scripts" / script), run_name="__main__")


@pytest.fixture
def pool(fake_hub):
    """Five real documents of 2,500 to 6,000 words on the fake Hub, with a licence."""
    if not CORPUS.is_file():
        pytest.skip(f"the corpus is not at {CORPUS}")
    rows = Dataset.from_parquet(str(CORPUS)).filter(lambda row: 2500 < len(row["text"].split()) < 6000)
    rows = rows.select(range(min(5, rows.num_rows))).select_columns(["id", "domain", "text"])
    rows.push_to_hub("tester/pool", private=True)
    card = DatasetCard.load("tester/pool")
    card.data.license, card.data.language = "cc0-1.0", ["en"]
    from huggingface_hub import HfApi

    HfApi().upload_file(
        path_or_fileobj=str(card).encode(), path_in_repo="README.md", repo_id="tester/pool", repo_type="dataset"
    )
    return rows


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_header_length_and_docstring(script):
    text = script.read_text()
    header = re.match(r"# /// script\n((?:#.*\n)+?)# ///\n", text)[1]
    assert 'requires-python = ">=3.11"' in header
    uses_package = "from ladm_hf" in text
    assert ("ladm-hf" in header) == uses_package
    assert len(text.splitlines()) <= 120
    # what works on data runs as a Job, and says how
    assert not uses_package or re.search(rf"hf jobs uv run .*{script.name} user/\S+ user/\S+", text)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_use_public_names_alone(script):
    for module, names in re.findall(r"from (ladm_hf\S*) import \(?([^)\n]*(?:\n {8}[^)]*)?)", script.read_text()):
        assert module in ("ladm_hf", "ladm_hf.training")
        public = importlib.import_module(module).__all__
        assert set(re.findall(r"\w+", names)) <= set(public), names


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_jobs_accept_the_script(script):
    hf = shutil.which("hf", path=str(Path(sys.executable).parent)) or shutil.which("hf")
    if hf is None:
        pytest.skip("no hf command")
    command = [hf, "jobs", "uv", "run", "--dry-run", "--flavor", "l4x1", "--secrets", "HF_TOKEN", str(script)]
    done = subprocess.run([*command, "user/in", "user/out", "--budget", "1e9"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "args     user/in user/out --budget 1e9" in done.stdout


def test_a_gpu_is_asked_for(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no CUDA device"):
        run("score-dataset.py", "user/in", "user/out", monkeypatch=monkeypatch)


def test_from_pool_to_published_selection_by_script_and_by_command(pool, fake_hub, tmp_path, monkeypatch, capsys):
    work = str(tmp_path / "work")
    arguments = ["tester/pool", "tester/chosen", "--budget", "14000", "--allow-cpu", "--work-dir", work]
    run("score-dataset.py", *arguments, monkeypatch=monkeypatch)
    assert "Published: " in capsys.readouterr().out
    assert fake_hub.repo("datasets/tester/chosen")["private"] is True
    chosen = load_dataset("tester/chosen", split="train")
    assert 0 < sum(chosen["ladm_num_tokens"]) <= 14_000
    card = DatasetCard.load("tester/chosen")
    assert (card.data.license, card.data.language, card.data.source_datasets) == ("cc0-1.0", ["en"], ["tester/pool"])
    assert "uv run score-dataset.py tester/pool tester/chosen" in card.text

    pool.to_parquet(tmp_path / "pool.parquet")
    for command in (
        ["score", str(tmp_path / "pool.parquet"), str(tmp_path / "scored")],
        ["select", str(tmp_path / "scored"), str(tmp_path / "sel"), "--budget", "14000"],
        ["report", str(tmp_path / "sel"), "--no-heat-maps"],
        ["publish", str(tmp_path / "sel"), "tester/by-command"],
    ):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output
    by_command = load_dataset("tester/by-command", split="train")
    assert [repr(row) for row in by_command] == [repr(row) for row in chosen]

    run("score-dataset.py", "tester/pool", "tester/scored", "--allow-cpu", "--work-dir", work, monkeypatch=monkeypatch)
    arguments = ["tester/scored", "tester/again", "--budget", "14000"]
    run("select-dataset.py", *arguments, monkeypatch=monkeypatch)
    again = load_dataset("tester/again", split="train")
    assert [repr(row) for row in again] == [repr(row) for row in chosen]


def test_a_trial_publishes_nothing(pool, fake_hub, tmp_path, monkeypatch, capsys):
    arguments = ["tester/pool", "tester/trial", "--max-samples", "2", "--allow-cpu", "--dry-run"]
    run("score-dataset.py", *arguments, "--work-dir", str(tmp_path / "w"), "--budget", "9k", monkeypatch=monkeypatch)
    assert "new repository" in capsys.readouterr().out
    assert fake_hub.repo("datasets/tester/trial") is None


def test_a_local_folder_is_scored_and_the_card_tells_the_whole_command(fake_hub, tmp_path, monkeypatch):
    (tmp_path / "pool").mkdir()
    Dataset.from_dict({"content": ["short"] * 3}).to_parquet(tmp_path / "pool" / "part-0.parquet")
    arguments = [str(tmp_path / "pool"), "tester/local", "--text-column", "content", "--allow-cpu"]
    arguments += ["--work-dir", str(tmp_path / "my work")]
    run("score-dataset.py", *arguments, monkeypatch=monkeypatch)
    card = DatasetCard.load("tester/local")
    assert shlex.join(["uv", "run", "score-dataset.py", *arguments]) in card.text
    assert card.data.source_datasets is None
    with pytest.raises(SystemExit, match="no column 'domian'"):
        run("score-dataset.py", *arguments, "--budget", "1k", "--by", "domian", monkeypatch=monkeypatch)


def test_errors_are_one_line(fake_hub, monkeypatch):
    with pytest.raises(SystemExit, match="error: "):
        run("select-dataset.py", str(ROOT / "tests"), "tester/x", "--budget", "none", monkeypatch=monkeypatch)
