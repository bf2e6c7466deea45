"""Every command line that the package prints does what it says when it is typed."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

import pytest
from cli.printed import defaults, parsed
from datasets import Dataset
from typer.testing import CliRunner

from fake_hub.fixtures import fake_hub, hub_process  # noqa: F401
from ladm_hf import build_card, publish, select
from ladm_hf.cli import publish as publish_command
from ladm_hf.cli import score as score_command
from ladm_hf.cli.app import EXAMPLES, app
from ladm_hf.cli.calibrate import calibrate
from ladm_hf.cli.score import rerun_command
from ladm_hf.cli.train import next_command
from ladm_hf.errors import PublishError
from ladm_hf.publishing.retry import RetryPolicy
from ladm_hf.selection.options import parse_bands, parse_shares, parse_tokens

ODD_NAMES = ["two words", "it's", "-dash", "ü|;$HOME"]


@pytest.mark.parametrize("example", EXAMPLES.values())
def test_every_example_of_the_help_is_a_command(example: str) -> None:
    name, _ = parsed(example)
    assert name == example.split()[1]


@pytest.mark.parametrize("word", ODD_NAMES)
def test_the_command_that_resumes_a_run_has_all_values_of_the_first(word: str, monkeypatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    arguments = [
        "--model", word, "--model-revision", "v1", "--split", "test", "--text-column", "", "--span-length", "16",
        "--ablation", "no_std", "--overflow", "windows", "--dtype", "float16", "--device", "cpu", "--backend", "naive",
        "--on-error", "raise", "--chunks", "7", "--scores-only", "--quiet",
    ]  # fmt: skip
    given = parsed(shlex.join(["ladm", "score", *arguments, "--restart", "--", word, "out put"]))[1]
    resumed = parsed(rerun_command(given))[1]
    # what was thrown away once is not thrown away again
    assert resumed == given | {"restart": False}
    assert (
        parsed("ladm score a b")[1].items() <= (defaults(score_command.score) | {"input": "a", "output": "b"}).items()
    )


def test_the_command_that_resumes_names_its_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    values = parsed("ladm score 'a b' out --restart")[1]
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert rerun_command(values) == "ladm score 'a b' out"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert rerun_command(values) == "torchrun --nproc_per_node 8 -m ladm_hf score 'a b' out"
    monkeypatch.setenv("GROUP_WORLD_SIZE", "4")
    assert rerun_command(values).startswith("torchrun --nnodes 4 ... --nproc_per_node 8")


POOL = Dataset.from_dict(
    {
        "text": ["a"] * 8,
        "domain": ["a b", "c=d", "-e", "f'g"] * 2,
        "ladm_score": [float(i) for i in range(8)],
        "ladm_num_tokens": [3000] * 8,
        "ladm_status": ["ok"] * 8,
    }
)


@pytest.mark.parametrize(
    "options",
    [
        {"budget_tokens": 9000},
        {"budget_tokens": 9000, "by": None, "shares": "equal", "length_bands": 2},
        {"budget_tokens": 9000, "shares": {"a b": 2.0, "c=d": 0.5, "-e": 1.0}, "length_bands": [4000]},
        {"budget_tokens": 9000, "strategy": "temperature", "temperature": 0.5, "seed": 3, "length_bands": [10, 4000]},
        {"strategy": "top-k", "k": 1, "ties": "text"},
        {"strategy": "threshold", "min_score": -1.5, "tokens": "ladm_num_tokens"},
    ],
)
def test_the_card_tells_the_command_of_its_selection(options) -> None:
    card = build_card(selection=dataclasses.replace(select(POOL, **options), pool="scored"))
    line = next(line for line in card.text.splitlines() if line.startswith("ladm select"))
    name, found = parsed(line)
    assert name == "select"
    again = select(
        POOL, budget_tokens=found["budget"] and parse_tokens(found["budget"]), by=found["by"] or None,
        shares=parse_shares(found["share"]), length_bands=parse_bands(found["length_bands"]),
        **{key: found[key] for key in ("strategy", "k", "min_score", "temperature", "seed", "tokens", "ties")},
    )  # fmt: skip
    assert again.options == select(POOL, **options).options
    assert again.selected["ladm_score"][:] == select(POOL, **options).selected["ladm_score"][:]


def test_a_failed_publish_tells_the_command_that_finishes_it(fake_hub, tmp_path: Path) -> None:
    folder = tmp_path / "it's data"
    folder.mkdir()
    POOL.to_parquet(folder / "rows.parquet")
    options = {
        "private": False, "create_pr": True, "tag": "v1", "config_name": "small", "commit_message": "First -- rows",
        "source_dataset": "owner/pool", "language": ["en", "de"], "license": "mit", "pretty_name": "A 'pool'",
        "figures": (), "read_back": False,
    }  # fmt: skip
    fake_hub.faults({"match": "/commit/", "kind": "500", "times": -1})
    with pytest.raises(PublishError) as caught:
        publish(folder, "tester/rows", retry=RetryPolicy(tries=2, first_wait=0.0), **options)
    name, found = parsed(str(caught.value).partition("To finish: ")[2])
    assert name == "publish"
    assert found == defaults(publish_command.publish) | {
        "output": str(folder), "repo_id": "tester/rows", "public": True, "pr": True, "tag": "v1",
        "config_name": "small", "message": "First -- rows", "source": "owner/pool", "language": ["en", "de"],
        "licence": "mit", "pretty_name": "A 'pool'", "figures": False, "read_back": False,
    }  # fmt: skip


def test_training_ends_with_the_command_that_calibrates_on_what_it_held_out() -> None:
    line = next_command(Path("my model"), ["a b.parquet", "c"], 0.3, 7, "body", [4, 5])
    name, found = parsed(line)
    assert name == "calibrate"
    assert found == defaults(calibrate) | {
        "model": "my model", "data": ["a b.parquet", "c"], "held_out": 0.3, "seed": 7, "text_column": "body",
        "layer": [4, 5],
    }  # fmt: skip
    assert next_command(Path("m"), ["d"], None, 0, "text", None) == "ladm calibrate m d"


def test_a_file_name_that_looks_like_an_option_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, shlex.split(rerun_command(parsed("ladm score -- -x.parquet out")[1]))[1:])
    assert done.exit_code == 1
    assert "no file, folder or glob '-x.parquet'" in done.output
