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
from conftest import tiny_model
from datasets import Dataset, load_dataset
from huggingface_hub import DatasetCard, HfApi
from typer.testing import CliRunner

from fake_hub.fixtures import fake_hub, hub_process  # noqa: F401
from ladm_hf import LadmConfig, LadmScorer
from ladm_hf.cli.app import app
from ladm_hf.selection.options import MAX_REPETITION
from ladm_hf.training.library import library_modules
from ladm_hf.training.tokenizer import train_tokenizer

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
    if "--dry-run" not in subprocess.run([hf, "jobs", "uv", "run", "--help"], capture_output=True, text=True).stdout:
        pytest.skip("this hf command has no --dry-run")
    command = [hf, "jobs", "uv", "run", "--dry-run", "--flavor", "l4x1", "--secrets", "HF_TOKEN", str(script)]
    done = subprocess.run([*command, "user/in", "user/out", "--budget", "1e9"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "args     user/in user/out --budget 1e9" in done.stdout


@pytest.mark.parametrize("script", ["score-dataset.py", "select-dataset.py"])
def test_scripts_drop_the_repetition_that_select_drops(script, monkeypatch):
    monkeypatch.setattr(sys, "argv", [script, "user/in", "user/out", "--budget", "1M"])
    options = runpy.run_path(str(ROOT / "hub_scripts" / script))["parse"]()
    assert float(options.max_repetition) == MAX_REPETITION


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


@pytest.fixture
def model(fake_hub, tmp_path, monkeypatch):
    """A tiny model with its tokenizer on the fake Hub, and long documents to calibrate it on."""
    texts = [" ".join(f"Day {i}.{day}: Lan{i} met Mor{i} at {day * 7 % 97}." for day in range(900)) for i in range(8)]
    tokenizer = train_tokenizer(texts[:2], vocab_size=400)
    tiny_model(vocab_size=len(tokenizer), num_hidden_layers=1).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    HfApi().create_repo("tester/model")
    HfApi().upload_folder(repo_id="tester/model", folder_path=tmp_path / "model")
    Dataset.from_dict({"text": texts}).to_parquet(tmp_path / "documents.parquet")
    monkeypatch.setattr("ladm_hf.training.figures.ROUNDS", 20)
    return str(tmp_path / "documents.parquet")


def test_a_calibration_becomes_a_pull_request_that_the_scorer_reads(model, fake_hub, monkeypatch, capsys):
    arguments = ["tester/model", model, "--length", "2432", "--windows", "2", "--max-heads", "1", "--allow-cpu"]
    run("calibrate-model.py", *arguments, "--dry-run", monkeypatch=monkeypatch)
    assert "| **objective**" in capsys.readouterr().out
    assert not fake_hub.repo("models/tester/model")["prs"]
    run("calibrate-model.py", *arguments, monkeypatch=monkeypatch)
    assert "Published: " in capsys.readouterr().out
    assert LadmScorer("tester/model").config.heads is None
    offered = LadmScorer("tester/model", revision="refs/pr/1").config
    assert len(offered.heads) == len(offered.weights) == 1
    # without documents, in a repository of one's own
    modules = [(name, text) for name, text in library_modules() if 40_000 < len(text) < 90_000][:8]
    monkeypatch.setattr("ladm_hf.training.library.library_modules", lambda: iter(modules))
    monkeypatch.setattr("ladm_hf.training.library.PACKAGES", ())
    arguments = ["tester/model", *arguments[2:], "--repo", "tester/mine"]
    run("calibrate-model.py", *arguments, monkeypatch=monkeypatch)
    assert fake_hub.repo("models/tester/mine")["private"] is True
    mine = LadmConfig.from_json_file(HfApi().hf_hub_download("tester/mine", "ladm_config.json"))
    assert len(mine.heads) == 1
    card = Path(HfApi().hf_hub_download("tester/mine", "README.md")).read_text()
    assert "base_model: tester/model" in card
    assert "| **objective**" in card


def test_a_model_that_cannot_be_calibrated_is_one_line(model, fake_hub, tmp_path, monkeypatch):
    arguments = ["tester/model", model, "--length", "128", "--allow-cpu", "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="error: lengths must be at least 2,305 tokens"):
        run("calibrate-model.py", *arguments, monkeypatch=monkeypatch)
    assert not (tmp_path / "out").exists()


def test_errors_are_one_line(fake_hub, monkeypatch):
    with pytest.raises(SystemExit, match="error: "):
        run("select-dataset.py", str(ROOT / "tests"), "tester/x", "--budget", "none", monkeypatch=monkeypatch)
