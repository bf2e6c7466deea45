"""The measure without a model, and the mixed pool: definitions found in small texts, correlations, junk kept."""

from __future__ import annotations

import importlib
import json
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT


@pytest.fixture(scope="module")
def benchmark():
    """Imports one of the benchmarks by name; they import each other by name as well."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield lambda name: importlib.import_module(name)
    sys.path.remove(str(ROOT / "benchmarks"))


def found(benchmark, text: str, **options) -> set[tuple[str, str, str]]:
    """Sort, and the lines of definition and use, of every use."""

    def line(place: int) -> str:
        return text[text.rfind("\n", 0, place) + 1 :].partition("\n")[0].strip()

    return {(sort, line(a), line(b)) for sort, a, b in benchmark("definitions").uses(text, **options)}


PYTHON = """\
import json
LIMIT = 4
class Reader:
    def read(self, path):
        self.path = path
        return json.loads(path)
def count(path):
    limit = LIMIT
    return [path for limit in range(limit)]
reader = Reader()
print(reader.read(LIMIT))
"""


def test_a_use_in_python_goes_back_to_the_binding_of_its_scope(benchmark):
    uses = {(a, b) for _, a, b in found(benchmark, PYTHON, program=True)}
    assert ("LIMIT = 4", "print(reader.read(LIMIT))") in uses
    assert ("import json", "return json.loads(path)") in uses
    assert ("def read(self, path):", "print(reader.read(LIMIT))") in uses
    # the argument of another function is another variable
    assert ("def read(self, path):", "return [path for limit in range(limit)]") not in uses
    assert ("def count(path):", "return [path for limit in range(limit)]") in uses


def test_an_import_goes_back_to_the_earlier_file_that_defines_the_name(benchmark):
    text = "# File: a.py\ndef helper():\n    return 1\n# File: b.py\nfrom a import helper\nprint(helper())\n"
    uses = {(a, b) for _, a, b in found(benchmark, text, program=True)}
    assert {("def helper():", "from a import helper"), ("def helper():", "print(helper())")} <= uses


def test_python_cut_in_the_middle_of_a_statement_is_read_up_to_there(benchmark):
    whole = found(benchmark, PYTHON, program=True)
    cut = found(benchmark, PYTHON + "def unfinished(path:\n", program=True)
    assert cut >= whole
    assert ("identifier", "import json", "return json.loads(path)") in cut


def test_a_use_in_another_language_goes_back_to_the_last_definition_outside_comments(benchmark):
    text = "#define SIZE 4\nint total(int *values) {\n  int sum = 0; // SIZE total\n  return values[SIZE] + sum;\n}\n"
    uses = {(a, b) for _, a, b in found(benchmark, text, program=True)}
    assert uses == {
        ("#define SIZE 4", "return values[SIZE] + sum;"),
        ("int total(int *values) {", "return values[SIZE] + sum;"),
        ("int sum = 0; // SIZE total", "return values[SIZE] + sum;"),
    }


@pytest.mark.parametrize(
    ("sort", "definition", "use"),
    [
        ("label", r"\begin{thm}\label{thm:main} All is well.", r"This was \ref{thm:main} above."),
        ("label", r"\newcommand{\norm}{x}", r"Take $\norm$ again."),
        ("label", "[^note]: An explanation.", "As said there.[^note]"),
        ("citation", r"We follow \cite{knuth}.", r"See \citep[p. 3]{lamport,knuth}."),
        ("citation", "In Bell v. Twombly, 550 U.S. 544 (2007)", "as in 550 U.S. 544, it was held"),
        ("citation", "It was shown (Chen et al., 2025).", "As before (Chen et al., 2025), it is."),
        ("number", "Section 3.2 Duties of the board", "Subject to section 3.2, nothing is owed."),
        ("number", "Theorem 4 Every group is a set.", "By Theorem 4 it is closed."),
        ("term", 'The "Purchase Price" means one dollar.', "They paid the Purchase Price at once."),
        ("term", 'Acme Limited (the "Company") agrees.', "No shares of the Company were sold."),
        ("symbol", "The interrupt request (IRQ) is raised.", "It clears every IRQ at last."),
        ("symbol", "It calls `read_page` first.", "The result of read_page is kept."),
        ("name", "There lived in that house old Marlow and a cat.", "Nobody had seen him, said Marlow to the dog."),
    ],
)  # fmt: skip
def test_a_use_in_prose_goes_back_to_its_definition_or_first_mention(benchmark, sort, definition, use):
    assert (sort, definition, use) in found(benchmark, f"{definition}\n\nNothing is here.\n\n{use}", program=False)
    assert not [row for row in found(benchmark, f"Nothing is here.\n\n{use}", program=False) if row[0] == sort]


def test_a_word_that_is_also_written_small_is_no_name(benchmark):
    text = "We asked the Committee and the committee.\nThen again, the Committee left.\n"
    assert not found(benchmark, text, program=False)


def test_the_share_counts_uses_far_behind_their_definition_in_tokens(benchmark):
    text = "SIZE = 1\nnear = SIZE\n" + "x_ = 0\n" * 500 + "far = SIZE\n"
    starts = [place for place, char in enumerate(text) if not place or text[place - 1] in " \n"]
    row = benchmark("dependency").measure("# File: a.py\n" + text, [13 + place for place in starts], len(starts), 400)
    assert row["uses: identifier"] == 2
    assert row["share"] == row["share: identifier"] == 0.5
    assert row["per_1000_tokens"] == pytest.approx(1000 / len(starts))


def test_a_score_that_is_the_measure_correlates_fully_and_is_ahead_of_noise(benchmark):
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"domain": np.repeat(["a", "b"], 40), "length": 8192, "uses": 50, "share": rng.random(80), "splice": 0.0}
    )
    table = table.assign(good=table.share**3, noise=rng.random(80), per_1000_tokens=table.share)
    sorts = {f"{kind}: {sort}": 0 for kind in ("uses", "share") for sort in benchmark("definitions").SORTS}
    share = benchmark("dependency").run(table.assign(**sorts), ["good", "noise"], 20, 100)["8192"]["share"]
    assert share["domains"]["a"]["scores"]["good"] == {"rho": 1.0, "interval": [1.0, 1.0]}
    low, high = share["mean over domains"]["noise"]["ahead"]
    assert 0.5 < low < high


@pytest.fixture
def pool(tmp_path):
    """Documents of two domains and junk, with a score that tells them apart and one that prefers junk."""
    rows, lines = [], []
    rng = np.random.default_rng(1)
    for n in range(400):
        kind, domain = ("degenerate", "table") if n % 4 == 0 else ("long", "ab"[n % 2])
        rows.append({"id": str(n), "domain": domain, "kind": kind, "text": f"Document {n} is about {rng.random()}."})
        for length in (4096, 8192):
            score = rng.random() + 2 * (kind == "long")
            lines.append({"id": str(n), "length": length, "tokens": length, "scores": {"good": score, "bad": -score}})
    pd.DataFrame(rows).to_parquet(tmp_path / "documents.parquet")
    (tmp_path / "scores.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def test_the_pool_counts_junk_in_the_best_quarter_together_and_by_domain(benchmark, pool, monkeypatch, capsys):
    output = pool / "result.json"
    arguments = [pool / "documents.parquet", "--scores", pool / "scores.jsonl", "--score", "good", "--draws", "3",
                 "--output", output, "--openings", pool / "openings.txt"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["mixed_pool.py", *map(str, arguments)])
    benchmark("mixed_pool").main()
    result = json.loads(output.read_text())
    assert result["documents"] == {"natural": 300, "junk": 100}
    assert {name: share["junk"] for name, share in result["whole"]["any junk"].items()} == {"all": 0, "a": 0, "b": 0}
    # 27 % of the pool is junk, which fills the whole quarter where the score prefers it
    assert result["compared"]["bad"]["together"]["all"]["junk"] == 1
    assert "highest of 200" in (pool / "openings.txt").read_text()


def test_windows_are_taken_at_each_length_that_a_document_fills_and_whole_once(benchmark):
    from ladm_hf.training.documents import TokenizedDocument

    documents = [TokenizedDocument(np.zeros(length, dtype=np.int32), key=str(length)) for length in (10, 50, 90)]
    taken = [(document.key, length) for document, length in benchmark("score_windows").windows(documents, [40, 80])]
    assert taken == [("10", 40), ("50", 40), ("50", 80), ("90", 40), ("90", 80)]


def test_scores_and_losses_are_written_once_for_each_document_and_length(benchmark, tmp_path, capsys):
    from ladm_hf.training.documents import TokenizedDocument
    from ladm_hf.training.model import build_model
    from ladm_hf.training.recipe import Architecture, Recipe
    from ladm_hf.training.tokenizer import train_tokenizer

    shape = Architecture(
        vocab_size=400, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1,
    )  # fmt: skip
    build_model(None, shape, Recipe(focus_layers=())).save_pretrained(tmp_path / "other")
    train_tokenizer(["some words"], vocab_size=400).save_pretrained(tmp_path / "other")
    (tmp_path / "other" / "ladm_config.json").write_text(
        '{"heads": [[1, 0]], "ablation": "no_std", "span_length": 16, "d_afs": 2, "d_cds": 1}'
    )
    rng = np.random.default_rng(0)
    documents = [
        TokenizedDocument(rng.integers(1, 400, length).astype(np.int32), key=str(length)) for length in (4, 300, 700)
    ]
    output, other = tmp_path / "scores.jsonl", str(tmp_path / "other")
    for _ in range(2):
        benchmark("score_windows").score(documents, [256, 512], [other, other], "cpu", output, losses=True)
        lines = benchmark("score_windows").read_scores(output)
        assert len(output.read_text().splitlines()) == len(lines) == 4
    assert lines["300", 512]["tokens"] == lines["300", 512]["document_tokens"] == 300
    assert set(lines["300", 512]["scores"]) == {"LADM", "other"}
    assert set(lines["700", 512]["scores"]) == {"LADM", "other", "token loss", "long minus short loss"}
    assert lines["700", 512]["scores"]["LADM"] == lines["700", 512]["scores"]["other"]


def test_words_alone_tell_a_text_that_returns_to_its_words(benchmark) -> None:
    measures = benchmark("lexical").measures

    rng = np.random.default_rng(0)
    spans = [" ".join(f"w{rng.integers(40)}" for _ in range(90)) for _ in range(32)]
    others = [" ".join(f"v{rng.integers(40)}" for _ in range(90)) for _ in range(16)]
    whole, changed = measures(spans, lambda word: 1.0), measures(spans[:16] + others, lambda word: 1.0)
    assert changed["both halves"] == 0
    assert whole["both halves"] > 0.9
    assert all(whole[name] > changed[name] for name in whole)
    # of the s spans before span s, as alike as can be, s - 3 are far
    assert whole["returns"] == pytest.approx(sum((s - 3) / s for s in range(4, 32)) / 32, abs=0.01)
