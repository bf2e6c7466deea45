"""Figures: drawn without touching matplotlib's state, legible, described, and safe with any names."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from datasets import Dataset, disable_progress_bars

from ladm_hf import Selection, select
from ladm_hf.config import LadmConfig
from ladm_hf.errors import ConfigError, MissingExtraError
from ladm_hf.ops.spans import SpanGrid
from ladm_hf.report import plots
from ladm_hf.report.focus_plot import focus_heatmap
from ladm_hf.report.style import CUT, to_png
from ladm_hf.scoring.results import DocumentScore, FocusMap

disable_progress_bars()

HOSTILE = [
    "a | b",
    "`code`",
    "{{ x }}",
    "$x_1^{2$ and \\$",
    "---",
    "<b>bold</b>",
    "two\nlines",
    "emoji 😀 漢字",
    "x" * 99,
]


def selection_of(domains: list[str], count: int = 200, **options: object) -> Selection:
    rng = np.random.default_rng(0)
    tokens = np.clip(rng.lognormal(9, 1, count), 2305, 32768).astype(int)
    scores = rng.gamma(9, 0.02, count)
    scores[::20] = np.nan
    pool = Dataset.from_dict(
        {
            "domain": [domains[i % len(domains)] for i in range(count)],
            "ladm_score": scores.tolist(),
            "ladm_num_tokens": tokens.tolist(),
            "ladm_status": ["ok" if math.isfinite(score) else "too_short" for score in scores],
        }
    )
    return select(pool, **(options or {"budget_tokens": int(tokens.sum() // 4)}))  # type: ignore[arg-type]


def texts_of(figure: object) -> str:
    axes = figure.axes[0]  # type: ignore[attr-defined]
    return "\n".join([axes.get_title(loc="left"), *(label.get_text() for label in axes.get_yticklabels())])


def size_of(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG")
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


DRAWN = [plots.score_by_domain, plots.domain_mix, plots.score_against_length]


@pytest.mark.parametrize("draw", DRAWN)
def test_hostile_domain_names_are_drawn_as_they_are(draw):
    selection = selection_of(HOSTILE)
    figure = draw(selection)
    assert size_of(to_png(figure, dpi=100))[0] == 700
    assert to_png(figure, dpi=100) == to_png(draw(selection), dpi=100)
    assert "\n" not in figure.get_label()
    if draw is not plots.score_against_length:
        # what matplotlib would take for mathematics is escaped, and comes out as itself
        assert r"\$x_1^{2\$ and \\$" in texts_of(figure)
        assert "two lines" in texts_of(figure)
        assert "two lines" in figure.get_label()


@pytest.mark.parametrize("draw", DRAWN)
def test_two_hundred_domains_fit(draw):
    figure = draw(selection_of([f"domain {i}" for i in range(200)], 600))
    width, height = size_of(to_png(figure, dpi=100))
    assert (width, height < 1500) == (700, True)


def test_the_largest_domains_are_named_and_the_others_counted():
    selection = selection_of([f"domain {i}" for i in range(200)], 600)
    assert "177 other domains" in texts_of(plots.domain_mix(selection))
    assert "(the 24 largest of 190)" in texts_of(plots.score_by_domain(selection))
    assert "largest" not in texts_of(plots.score_by_domain(selection_of(["a", "b"])))


def test_the_mix_adds_up_before_and_after():
    selection = selection_of(["a", "b", "c"], budget_tokens=400_000, shares={"a": 3, "b": 1})
    label = plots.domain_mix(selection).get_label()
    parts = [entry.split()[-3:] for entry in label.split(": ")[1].split("; ")]
    assert sum(float(before) for before, _, _ in parts) == pytest.approx(100, abs=0.2)
    assert sum(float(after) for _, _, after in parts) == pytest.approx(100, abs=0.2)
    after_by_domain = {
        entry.split()[0]: float(entry.split()[-1]) for entry in label.split("selection: ")[1].split("; ")
    }
    assert after_by_domain["a"] == pytest.approx(75, abs=5)
    assert after_by_domain["c"] == 0


@pytest.mark.parametrize(
    ("options", "cuts"),
    [
        ({"strategy": "top-k", "k": 5}, True),
        ({"strategy": "bottom-k", "k": 5}, False),
        ({"strategy": "threshold", "min_score": 0.2}, True),
        ({"strategy": "threshold", "min_percentile": 50}, False),
        ({"strategy": "temperature", "budget_tokens": 100_000}, False),
        ({"budget_tokens": 100_000, "length_bands": 2}, False),
    ],
)
def test_a_cut_is_drawn_only_where_it_parts_kept_from_dropped(options, cuts):
    axes = plots.score_by_domain(selection_of(["a", "b"], **options)).axes[0]
    lines = [line for line in axes.lines if line.get_color() == CUT]
    assert len(lines) == (2 if cuts else 0)


def test_a_selection_without_scores_or_rows_is_refused_or_drawn_empty():
    pool = {"domain": ["a"] * 3, "ladm_score": [math.nan] * 3, "ladm_num_tokens": [5] * 3, "ladm_status": ["null"] * 3}
    unscored = select(Dataset.from_dict(pool), budget_tokens=5)
    for draw in (plots.score_by_domain, plots.score_against_length):
        with pytest.raises(ConfigError, match="no finite score"):
            draw(unscored)
    to_png(plots.domain_mix(unscored))
    assert all(math.isnan(value) for value in plots.length_correlation(unscored).values())
    empty = select(Dataset.from_dict(pool).select([]), budget_tokens=5)
    to_png(plots.domain_mix(empty))


def test_one_document_and_equal_scores_are_drawn():
    one = {"domain": ["a"], "ladm_score": [0.0], "ladm_num_tokens": [0], "ladm_status": ["ok"]}
    selection = select(Dataset.from_dict(one), budget_tokens=5)
    for draw in DRAWN:
        to_png(draw(selection))
    assert "1 document" in texts_of(plots.score_by_domain(selection))


def test_the_length_correlation_is_spearmans_over_all_and_within_domains():
    # in each domain score falls with length; between domains it rises
    pool = Dataset.from_dict(
        {
            "domain": ["a"] * 50 + ["b"] * 50,
            "ladm_score": [1 - i / 100 for i in range(50)] + [11 - i / 100 for i in range(50)],
            "ladm_num_tokens": [*range(100, 150), *range(1000, 1050)],
            "ladm_status": ["ok"] * 100,
        }
    )
    selection = select(pool, budget_tokens=10_000)
    found = plots.length_correlation(selection)
    assert found["within_domain"] == pytest.approx(-1)
    # all pairs of one domain are discordant, all pairs of two domains concordant
    ranks = np.concatenate([np.arange(50, 0, -1), np.arange(100, 50, -1)])
    assert found["all"] == pytest.approx(np.corrcoef(ranks, np.arange(100))[0, 1])
    assert "rank correlation +0.50, within domains -1.00" in texts_of(plots.score_against_length(selection))


def test_ten_thousand_documents_are_thinned_for_the_eye_only():
    selection = selection_of(["a", "b"], 10_000)
    axes = plots.score_against_length(selection).axes[0]
    points = [line for line in axes.lines if line.get_linestyle() == "None"]
    assert sum(len(line.get_xdata()) for line in points) == plots.MAX_POINTS
    assert "9,500 documents" in axes.figure.get_label()


def test_documents_cut_to_one_length_are_one_point_of_the_running_median():
    tokens, score = np.array([10] * 50 + [20] * 200), np.arange(250, dtype=float)
    centres, medians = plots._running_median(tokens, score)
    assert centres == sorted(set(centres))
    assert centres[-1] == 20
    assert len(medians) == len(centres)


def test_groups_are_drawn_with_their_medians_and_counts():
    figure = plots.score_distribution({"natural": [1, 2, 3.5, math.nan], "spliced": []}, title="Kinds")
    assert figure.get_label() == "Kinds: natural median 2; spliced without scores"
    assert "natural\n3 documents" in texts_of(figure)
    to_png(figure)
    with pytest.raises(ConfigError, match="no finite score"):
        plots.score_distribution({"a": [math.nan]})


@pytest.mark.parametrize(("d_afs", "d_cds"), [(4, 4), (2, 3), (1, 1)])
def test_a_focus_map_puts_every_pair_of_spans_in_its_own_cell(d_afs, d_cds):
    grid = SpanGrid(3000, LadmConfig(span_length=32, d_afs=d_afs, d_cds=d_cds))
    starts = np.full(grid.shape, -1)
    for row, _, count in grid.query_spans(0):
        starts[row, :count] = grid.key_starts(0, row)
    pfs = np.where(grid.present[0], np.random.default_rng(0).random(grid.shape), np.nan).astype(np.float32)
    focus = FocusMap(pfs, grid.query_starts[0], starts, 32, None, DocumentScore(0.25, 3000, "ok", (0.25,)))
    figure = focus_heatmap(focus)
    image = figure.axes[0].images[0].get_array()
    assert np.sort(image.compressed()) == pytest.approx(np.sort(pfs[grid.present[0]].astype(np.float64)))
    assert image.shape == (len(pfs), math.ceil(3000 / (32 * d_afs)))
    assert "Score 0.25, 3,000 tokens" in figure.get_label()
    assert size_of(to_png(figure)) == (1400, 1040)
    assert focus_heatmap(focus, title="A $5 title").axes[0].get_title(loc="left") == r"A \$5 title"


def test_the_users_own_style_is_neither_used_nor_changed():
    import matplotlib

    selection = selection_of(["a", "b"])
    plain = to_png(plots.domain_mix(selection))
    with matplotlib.rc_context({"figure.facecolor": "black", "font.size": 30, "text.usetex": False}):
        assert to_png(plots.domain_mix(selection)) == plain
        assert matplotlib.rcParams["font.size"] == 30


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'ladm-hf\[plot\]'"):
        plots.domain_mix(selection_of(["a"]))


def test_drawing_opens_no_window_and_loads_no_pyplot():
    code = (
        "import sys; from ladm_hf.report import plots; from ladm_hf.report.style import to_png\n"
        "to_png(plots.score_distribution({'a': [1.0, 2.0]}))\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_importing_the_modules_loads_neither_torch_nor_matplotlib():
    code = (
        "import sys, ladm_hf.report.page, ladm_hf.report.plots, ladm_hf.selection.selection\n"
        "assert not {'torch', 'transformers', 'matplotlib', 'datasets'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
