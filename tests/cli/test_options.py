"""Options: what the help shows, and files of options."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
import typer
import yaml
from datasets import Dataset, load_dataset
from typer.testing import CliRunner

from ladm_hf import config
from ladm_hf.cli import options, train
from ladm_hf.cli.app import EXAMPLES, app
from ladm_hf.data import storage
from ladm_hf.scoring import call, loader
from ladm_hf.selection import options as selection_options

COMMANDS = typer.main.get_command(app).commands
runner = CliRunner()


def rows(folder: Path) -> str:
    scores = {"ladm_score": [0.1, 0.2, 0.3], "ladm_num_tokens": [3000] * 3, "ladm_status": ["ok"] * 3}
    Dataset.from_dict({"text": ["a"] * 3, "kind": ["x", "x", "y"], **scores}).to_parquet(folder / "scored.parquet")
    return str(folder / "scored.parquet")


def test_commands_stand_in_the_order_of_the_work() -> None:
    shown = runner.invoke(app, ["--help"]).output
    places = [shown.index(f" {name} ") for name in COMMANDS]
    assert places == sorted(places)
    assert list(COMMANDS)[:8] == ["demo", "prepare", "score", "compare", "select", "report", "pack", "publish"]
    assert "Exit codes: 0 done" in shown
    assert "--install-completion" in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_shows_its_default_or_is_required(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = re.sub(r"\s+", " ", runner.invoke(app, [name, "--help"]).output)
    assert next(example for function, example in EXAMPLES.items() if example.startswith(f"ladm {name}")) in shown
    for parameter in COMMANDS[name].params:
        # a switch that can only be turned on is off
        if parameter.param_type_name == "option" and not (parameter.is_flag and not parameter.secondary_opts):
            assert parameter.required or parameter.show_default, parameter.name
            assert parameter.required or parameter.default not in (None, ()) or isinstance(parameter.show_default, str)


def test_choices_and_defaults_are_those_of_the_functions() -> None:
    assert get_args(options.Dtype) == ("auto", *loader.DTYPES)
    assert get_args(options.Backend) == loader.DOCUMENT_BACKENDS
    assert get_args(options.Strategy) == tuple(selection_options.NEEDS)
    assert get_args(options.Overflow) == get_args(config.Overflow)
    assert get_args(options.Ablation) == get_args(config.Ablation)
    assert get_args(options.OnError) == get_args(call.OnError)


def test_the_defaults_of_the_recipe_are_those_of_the_help() -> None:
    from ladm_hf.training import PAPER, Recipe

    def shown(recipe: Recipe, name: str) -> str:
        if name == "stage":
            return " ".join(f"{length}:{share}" for length, share in recipe.stages)
        if name == "focus_layer":
            return " ".join(map(str, recipe.focus_layers)) or "none"
        if name == "view":
            return " ".join(view.removesuffix("_labels") for view, heads in recipe.focus_views if heads is None)
        return str(getattr(recipe, name, getattr(recipe.mix, name, None)))

    assert {name: shown(Recipe(), name) for name in train.RECIPE} == train.RECIPE
    papers = {name: shown(PAPER, name) for name in train.RECIPE}
    assert {name: value for name, value in papers.items() if value != train.RECIPE[name]} == train.PAPERS


def test_a_file_gives_what_the_command_line_leaves_out(tmp_path: Path) -> None:
    scored = rows(tmp_path)
    file = tmp_path / "run.yaml"
    file.write_text("by: kind\nbudget: 6_000\nshare: {x: 1, y: 1}\ndropped-text: false\nlength_bands: null\n")
    arguments = ["select", scored, str(tmp_path / "out"), "--options", str(file)]
    done = runner.invoke(app, [*arguments, "--share", "equal"])
    assert done.exit_code == 0, done.output
    written = yaml.safe_load((tmp_path / "out" / "options.yaml").read_text())
    assert written["budget"] == "6000"
    assert (written["by"], written["share"], written["dropped_text"]) == ("kind", ["equal"], False)
    assert written["scored"] == scored


def test_the_options_beside_a_result_make_it_again(tmp_path: Path) -> None:
    scored = rows(tmp_path)
    first = tmp_path / "first"
    done = runner.invoke(
        app, ["select", scored, str(first), "--by", "", "-s", "top-k", "-k", "2", "--score-column", "ladm_score"]
    )
    assert done.exit_code == 0, done.output
    values = yaml.safe_load((first / "options.yaml").read_text())
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(values | {"output": str(tmp_path / "second")}))
    assert runner.invoke(app, ["select", "--options", str(tmp_path / "again.yaml")]).exit_code == 0
    assert yaml.safe_load((tmp_path / "second" / "options.yaml").read_text()) == values | {
        "output": str(tmp_path / "second")
    }
    kept = [load_dataset(str(folder), split="train")["ladm_score"][:] for folder in (first, tmp_path / "second")]
    assert kept[0] == kept[1] == [0.2, 0.3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("budgett: 5", "takes no option 'budgett' from a file; did you mean 'budget'?"),
        ("- a", "must hold `option: value` lines, found list"),
        ("budget: [1, 2]", "budget takes one text or number"),
        ("split: no", "split takes one text or number (in quotes if YAML reads it as another), found False"),
        ("dropped_text: 3", "dropped_text is true or false, found 3"),
        ("strategy: best", "'best'"),
        ("k: many", "'-k'"),
        ("a: [", "cannot read the options in"),
        ("options: other.yaml", "takes no option 'options' from a file"),
    ],
)
def test_a_bad_file_is_refused_in_words(tmp_path: Path, text: str, message: str, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    file = tmp_path / "o.yaml"
    file.write_text(text)
    done = runner.invoke(app, ["select", "a", "b", "--options", str(file)])
    assert done.exit_code == 2
    assert message in done.output
    assert not (tmp_path / "b").exists()


def test_a_missing_file_is_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    done = runner.invoke(app, ["select", "a", "b", "--options", str(tmp_path / "gone.yaml")])
    assert done.exit_code == 2
    assert "gone.yaml" in done.output


def test_options_that_cannot_be_written_lose_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "write_atomically", refuse)
    done = runner.invoke(app, ["select", rows(tmp_path), str(tmp_path / "out"), "--budget", "6000", "--by", ""])
    assert done.exit_code == 0, done.output
    assert "options.yaml cannot be written: " in done.output
    assert (tmp_path / "out" / "selection.json").is_file()
