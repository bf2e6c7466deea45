"""`report()` and `ladm report`: one page that needs no other file and lets no data out of its place."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import run_record
from datasets import Dataset, disable_progress_bars
from typer.testing import CliRunner

from ladm_hf import LadmConfig, LadmError, LadmScorer, Selection, score_dataset, select
from ladm_hf.calculators.calculator import BUNDLED
from ladm_hf.cli.app import app
from ladm_hf.errors import InputError
from ladm_hf.report.heat_maps import scorer_of_run
from ladm_hf.report.page import report

disable_progress_bars()

HOSTILE = [
    "a | b",
    "`code`",
    "{{ 7 * 7 }}",
    "---",
    "<script>alert(1)</script>",
    '"><img src=x>',
    "two\nlines",
    "😀 $x$",
]


class Page(html.parser.HTMLParser):
    """The page's text, its tags and where it refers to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[str] = []
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        if tag == "img":
            self.images.append(values)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data: str) -> None:
        self.text += data


def pool_of(count: int = 160, domains: list[str] = HOSTILE) -> Dataset:
    rng = np.random.default_rng(0)
    scores = rng.random(count)
    scores[::10] = np.nan
    status = [
        "ok" if math.isfinite(score) else ("too_short" if i % 20 else "error: <b>x</b>")
        for i, score in enumerate(scores)
    ]
    return Dataset.from_dict(
        {
            "text": [
                f"Opening {i} <script>alert({i})</script> {{{{ y }}}} \x00\x1b[1m\n" + "word " * 300
                for i in range(count)
            ],
            "domain": [domains[i % len(domains)] for i in range(count)],
            "ladm_score": scores.tolist(),
            "ladm_num_tokens": rng.integers(100, 9000, count).tolist(),
            "ladm_status": status,
        }
    )


def test_the_page_is_self_contained_and_shows_everything(tmp_path):
    selection = select(pool_of(), budget_tokens=100_000)
    page = Page(report(selection, tmp_path / "report"))
    assert page.links
    assert all(link.startswith(("data:image/png;base64,", "https://arxiv.org/")) for link in page.links)
    assert "script" not in page.tags
    assert len(page.images) == 3
    assert all(len(image["alt"] or "") > 30 for image in page.images)
    for part in (
        f"{selection.selected_tokens:,}", "Budget by domain", "Scores by domain", "Domain mix", "Score and length",
        "Best: number 1 of 144", "Median: number 72 of 144", "Worst: number 144 of 144", "Why documents were dropped",
        "too short to be scored", "error: <b>x</b>", '"budget_tokens": 100000', *selection.notes,
    ):  # fmt: skip
        assert part in page.text
    assert sorted(path.name for path in (tmp_path / "report" / "figures").iterdir()) == [
        "domain_mix.png", "score_against_length.png", "score_by_domain.png",
    ]  # fmt: skip


def test_names_and_texts_from_the_data_stay_in_their_cells(tmp_path):
    selection = select(pool_of(), budget_tokens=100_000, length_bands=2)
    path = report(selection, tmp_path, title="<i>mine</i>")
    page = Page(path)
    plain = Page(
        report(select(pool_of(domains=list("abcdefgh")), budget_tokens=100_000, length_bands=2), tmp_path / "b")
    )
    assert page.tags == plain.tags
    for name in HOSTILE:
        assert " ".join(name.split()) in page.text
    assert "<i>mine</i>" in page.text
    best = np.nanargmax(np.array(pool_of()["ladm_score"][:]))
    assert f"Opening {best} <script>alert({best})</script> {{{{ y }}}}" in page.text
    assert "\x00" not in path.read_text(encoding="utf-8")


def test_a_saved_selection_is_reported_alike_and_lost_texts_are_said_to_be(tmp_path):
    selection = select(pool_of(), budget_tokens=100_000)
    whole = report(selection, tmp_path / "a").read_text(encoding="utf-8")
    folder = selection.save(tmp_path / "selection")
    assert report(folder, tmp_path / "b").read_text(encoding="utf-8") == whole
    selection.save(folder, dropped="scores", overwrite=True)
    assert "Its text is not kept here." in Page(report(folder, tmp_path / "c")).text
    # the page names the column it looks for nowhere else
    assert "Opening" not in Page(report(selection, tmp_path / "d", text_column="body")).text


def test_pools_without_scores_documents_or_drops_are_reported(tmp_path):
    unscored = pool_of(20).map(lambda row: {"ladm_score": math.nan, "ladm_status": "null"})
    page = Page(report(select(unscored, budget_tokens=5), tmp_path / "unscored"))
    assert "No document has a score." in page.text
    assert len(page.images) == 1
    assert (
        "nothing could be kept"
        in Page(report(select(pool_of(20).select([]), budget_tokens=5), tmp_path / "empty")).text
    )
    everything = select(pool_of(20).filter(lambda row: row["ladm_status"] == "ok"), budget_tokens=10**9)
    assert "every document was kept" in Page(report(everything, tmp_path / "all")).text
    one = select(pool_of(20).select([1]), budget_tokens=10**9)
    page = Page(report(one, tmp_path / "one"))
    assert "Best: number 1 of 1" in page.text
    assert "Worst" not in page.text


def test_hundreds_of_domains_bands_and_reasons_are_shortened(tmp_path):
    pool = pool_of(600, [f"domain {i}" for i in range(300)])
    pool = pool.map(
        lambda row, i: {"ladm_status": f"error: {i}" if row["ladm_status"] != "ok" else "ok"}, with_indices=True
    )
    page = Page(report(select(pool, budget_tokens=500_000, length_bands=2), tmp_path))
    assert "100 smaller domains" in page.text
    assert "other reasons" in page.text
    assert "more" in page.text


def test_focus_maps_of_the_best_and_the_worst_document(tmp_path):
    config = LadmConfig(span_length=8, heads=((0, 0),), max_length=512)
    scorer = LadmScorer(config=config)
    texts = [
        "".join(f"Chapter {i}.{n}. The river and the {name} met again. " for n in range(40))
        for i, name in enumerate(["sea", "town", "king"])
    ]
    scored = Dataset.from_dict({"text": texts, "domain": ["a"] * 3}).map(scorer, batched=True)
    page = Page(report(select(scored, budget_tokens=600), tmp_path / "same", scorer=scorer))
    assert len(page.images) == 5
    assert "Best document: score" in (page.images[3]["alt"] or "")
    assert {"focus_best.png", "focus_worst.png"} <= {path.name for path in (tmp_path / "same" / "figures").iterdir()}
    assert "comes from another calculator" not in page.text
    other = scored.map(lambda row: {"ladm_score": row["ladm_score"] * 2})
    page = Page(report(select(other, budget_tokens=600), tmp_path / "other", scorer=scorer))
    assert "comes from another calculator" in page.text
    assert len(page.images) == 3
    short = Dataset.from_dict({**scored.to_dict(), "text": ["too short", "", "also"]})
    page = Page(report(select(short, budget_tokens=600), tmp_path / "short", scorer=scorer))
    assert "No focus map of the best document" in page.text
    no_text = scored.remove_columns("text")
    page = Page(report(select(no_text, budget_tokens=600), tmp_path / "none", scorer=scorer))
    assert "no text here to draw focus maps of" in page.text
    alone = select(scored.select([0]), budget_tokens=600)
    assert len(Page(report(alone, tmp_path / "alone", scorer=scorer)).images) == 4


def test_the_command_writes_beside_the_selection(tmp_path):
    folder = select(pool_of(), budget_tokens=100_000).save(tmp_path / "selection")
    result = CliRunner().invoke(app, ["report", str(folder), "--no-heat-maps"])
    assert result.exit_code == 0, result.output
    assert (folder / "report" / "index.html").is_file()
    # the report leaves the selection as it was
    assert json.loads((folder / "selection.json").read_text())["budget_tokens"] == 100_000
    result = CliRunner().invoke(app, ["report", str(folder), str(tmp_path / "other")])
    assert result.exit_code == 0, result.output
    assert "No focus map of the best document" in (tmp_path / "other" / "index.html").read_text()
    result = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert result.exit_code == 1
    assert "holds no selection.json" in result.output


def test_the_papers_percent_is_named(tmp_path):
    selection = select(pool_of(), budget_tokens=100_000, strategy="percent")
    page = Page(report(selection, tmp_path))
    assert f"{selection.percent} %" in page.text
    assert "over the budget" in page.text


def test_an_output_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="the report cannot be written"):
        report(select(pool_of(20), budget_tokens=9), tmp_path / "file")


@pytest.fixture(scope="module")
def selected_run(tmp_path_factory):
    """A selection from a run whose configuration is not the calculator's own, and the scores of its documents."""
    folder = tmp_path_factory.mktemp("run")
    texts = [
        "".join(f"Chapter {i}.{n}. The river and the {name} met again. " for n in range(40))
        for i, name in enumerate(["sea", "town", "king"])
    ]
    pool = Dataset.from_dict({"body": texts, "domain": ["a"] * 3})
    scorer = LadmScorer(config=LadmConfig(span_length=8, heads=((0, 0),), max_length=512), text_column="body")
    scored = score_dataset(pool, folder / "scored", scorer, progress=False)
    select(folder / "scored", budget_tokens=600).save(folder / "selected")
    return folder / "selected", scored["ladm_score"][:]


def test_the_command_draws_heat_maps_with_the_configuration_and_calculator_of_the_run(selected_run):
    folder, scores = selected_run
    result = CliRunner().invoke(app, ["report", str(folder)])
    assert result.exit_code == 0, result.output
    page = Page(folder / "report" / "index.html")
    assert len(page.images) == 5
    # a document has one score on the page
    for name, score, image in zip(("Best", "Worst"), (max(scores), min(scores)), page.images[3:], strict=True):
        assert f"{name} document: score {score:.4g}, " in (image["alt"] or "")
        assert f"Score {score:.4g}, " in page.text
    assert "The river and the" in page.text


def test_no_heat_map_is_drawn_by_another_calculator_than_that_of_the_run(selected_run, tmp_path):
    folder, _ = selected_run
    selection = Selection.load(folder)
    other = dataclasses.replace(
        selection.run, calculator=None, identity={**selection.run.identity, "model": "content:abc"}
    )
    with pytest.raises(LadmError, match=r"scored by content:abc .* name the calculator with --model"):
        scorer_of_run(other)
    assert scorer_of_run(None).calculator.name == "ladm-nano"
    assert scorer_of_run(selection.run).config.span_length == 8
    assert scorer_of_run(selection.run, "ladm-nano").dtype == selection.run.identity["dtype"]
    dataclasses.replace(selection, run=other).save(tmp_path / "other")
    result = CliRunner().invoke(app, ["report", str(tmp_path / "other")])
    assert result.exit_code == 0, result.output
    assert "No focus maps: the data were scored by content:abc" in result.output
    page = Page(tmp_path / "other" / "report" / "index.html")
    assert "No focus maps: the data were scored by content:abc" in page.text
    assert len(page.images) == 3


def test_the_configuration_of_a_run_wins_over_the_calibration_of_its_calculator(tmp_path):
    folder = shutil.copytree(BUNDLED["ladm-nano"], tmp_path / "calculator")
    calibration = {"heads": [[4, 0], [4, 1]], "weights": [1.0, 2.0], "max_length": 4096}
    (folder / "ladm_config.json").write_text(json.dumps(calibration))
    for config in (LadmConfig.paper(), LadmConfig(heads=((1, 0),), weights=None), None):
        scorer = LadmScorer(folder, config=config)
        options = {f"config.{name}": value for name, value in scorer.config.to_dict().items()}
        identity = {"model": scorer.calculator.identity, "dtype": scorer.dtype, **options}
        again = scorer_of_run(run_record(identity=identity, calculator=str(folder)))
        assert again.config == scorer.config
        assert again.identity == scorer.identity
