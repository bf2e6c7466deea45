"""The card: YAML that parses, people's text kept, and values from data that stay in their cell."""

import functools
import html.parser
import re
import shlex

import pytest
import yaml
from conftest import run_record
from datasets import Dataset, DatasetDict
from huggingface_hub import DatasetCard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from ladm_hf.cli.app import app
from ladm_hf.errors import InputError
from ladm_hf.publishing.card import Figure, build_card, card_diff
from ladm_hf.publishing.card_block import BEGIN, END
from ladm_hf.selection.selection import Selection, select
from ladm_hf.text import cell, fence

HOSTILE = [
    "a | b", "`code`", "``", "{{ 7 * 7 }}", "{% raw %}", "---", "<script>alert(1)</script>", "<!-- ladm:end -->",
    "line\nbreak\r\nhere", "| --- |", "# heading", "![x](http://evil/x.png)", "[a](javascript:alert(1))", "*bold*",
    "_em_", "~~no~~", "$x$", "&lt;b&gt;", "📚🇫🇷👩‍💻", "\u202egnp.exe", "null\0byte",
    "https://evil.example", "- item", "1. item",
    "\\|", "😀" * 200, "", " ", "yes", "1e5", "'\"", "key: value", "@everyone", ":smile:", "\ud800",
]  # fmt: skip


def rows(domains):
    return Dataset.from_dict(
        {
            "text": [f"text {i}" for i in range(len(domains))],
            "domain": domains,
            "ladm_score": [float(i) for i in range(len(domains))],
            "ladm_num_tokens": [100] * len(domains),
            "ladm_status": ["ok"] * len(domains),
        }
    )


def hostile_selection():
    return select(rows([name for name in HOSTILE if name != "\ud800"]), budget_tokens=10_000)


def table_rows(markdown):
    block = markdown[markdown.index("## Budget") :]
    return [line for line in block.split("\n## ")[0].splitlines() if line.startswith("|")]


RUN = {
    "dataset": {"id": "user/source", "revision": "abc123", "split": "train"},
    "model": {"id": "ladm-nano", "dtype": "float32"},
    "config": {"span_length": 128, "max_length": 32768, "overflow": "truncate", "heads": [[0, 1]]},
    "versions": {"ladm_hf": "0.1.0"},
}


def test_a_whole_card():
    source = (
        "---\nlicense: other\nlicense_name: house\nlicense_link: LICENSE.md\nlanguage:\n- en\n- fr\n---\n# Source\n"
    )
    selection = select(rows(["web"] * 6 + ["code"] * 4), budget_tokens=500)
    card = build_card(
        RUN, selection, repo_id="user/name", source_card=source, command="ladm score user/source out",
        figures=[Figure("assets/x.png", "A bar [chart] of\nscores", "Scores.")],
    )  # fmt: skip
    data = DatasetCard(str(card)).data
    assert (data.license, data["license_name"], data.language) == ("other", "house", ["en", "fr"])
    assert data.source_datasets == ["user/source"]
    assert data.task_categories == ["text-generation"]
    assert data.size_categories == ["n<1K"]
    assert data["configs"] == [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}]
    assert data["dataset_info"]["splits"][0]["num_examples"] == 5
    assert data["ladm"]["config"]["heads"] == [[0, 1]]
    assert data["ladm"]["selection"]["selected_tokens"] == 500
    text = card.text
    assert "| code | 4 | 400 | (none) | 2 | 200 | 200 | 8 |" in text
    assert r"![A bar \[chart\] of scores](assets/x.png)" in text
    assert "```bash\nladm score user/source out\n```" in text
    assert "first 32,768 tokens" in text
    assert "2025" in text
    assert "house" not in text.split("## Licence")[0]


def test_what_the_card_says_of_rows_in_memory_makes_the_selection_again():
    scored = rows(["web"] * 6)
    options = {"budget_tokens": 500, "by": None, "shares": {"all": 2.0}, "seed": 3}
    selection = select(scored, **options)
    text = build_card({**RUN, "command": "ladm score a b"}, selection).text
    assert "```bash\nladm score a b\n```" in text
    call = re.search(r"```python\n# scored: the scored rows\n(select.*)\n```", text)[1]
    assert eval(call, {"scored": scored, "select": select}).options == selection.options
    plain = build_card({}, select(scored, budget_tokens=500)).text
    assert "\nselect(scored, budget_tokens=500)\n" in plain


def test_the_command_of_the_card_selects_the_same_again(tmp_path):
    pool = rows(["web"] * 6).rename_column("ladm_score", "my score")
    pool.save_to_disk(tmp_path / "pool")
    selection = select(tmp_path / "pool", budget_tokens=300, length_bands=[100], score="my score")
    selection.save(tmp_path / "saved")
    for saved, folder in ((selection, "selected"), (Selection.load(tmp_path / "saved"), tmp_path / "saved")):
        line = re.search(r"ladm (select .*)", build_card({}, saved).text)[1]
        words = shlex.split(line)
        assert words[1:3] == [str(tmp_path / "pool"), str(folder)]
        done = CliRunner().invoke(app, [words[0], words[1], str(tmp_path / "again"), *words[3:], "--overwrite"])
        assert done.exit_code == 0, done.output
        assert Selection.load(tmp_path / "again").options == selection.options


def test_the_snippet_of_the_card_is_python():
    text = build_card({}, data=DatasetDict({"a.b": rows(["x"])}), repo_id="user/name", config_name="part").text
    snippet = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    compile(snippet, "card", "exec")
    assert "load_dataset('user/name', 'part', split='a.b')" in snippet


def test_building_again_into_itself_changes_nothing():
    selection = hostile_selection()
    first = str(build_card(RUN, selection, repo_id="u/x"))
    assert card_diff(first, str(build_card(RUN, selection, repo_id="u/x", existing=first))) == ""


def test_a_mark_in_a_command_does_not_end_the_block():
    build = functools.partial(build_card, {}, data=rows(["x"]), command=f"ladm select '{END}' '{BEGIN}' out")
    first = str(build(existing="# Mine\n\nwords\n"))
    assert first.count("<!-- ladm:begin") == first.count("<!-- ladm:end -->") == 1
    assert str(build(existing=first)) == first


@pytest.mark.parametrize(
    "text",
    [
        "# Mine\n\nwords\n", "---\nlicense: mit\n---\n\nwords\n", "---\nx: 1\n---",
        f"before\n{BEGIN}\nold\n{END}\nafter\n",
        f"words\n{BEGIN}\nthe end is missing",
        f"words\n{END}\nthe beginning is missing", "words with ---\nin them\n---\n",
        "---\r\nlicense: mit\r\n---\r\n# Windows\r\n\r\nwords\r\n",
    ],
)  # fmt: skip
def test_text_of_people_is_kept(text):
    once = str(build_card({}, data=rows(["x"]), existing=text))
    twice = str(build_card({}, data=rows(["y", "z"]), existing=once))
    for result in (once, twice):
        for word in re.findall(r"words|Mine|before|after|missing|Windows|in them", text):
            assert word in result
        assert result.count("<!-- ladm:begin") == result.count("<!-- ladm:end -->") == 1
        assert "old" not in result.split("<!-- ladm:begin")[1]
    if "license: mit" in text:
        assert DatasetCard(twice).data.license == "mit"
    assert re.search(r"2 documents", twice)


def test_yaml_is_merged():
    existing = (
        "---\nlicense: mit\npretty_name: Ours\ntags:\n- mine\nviewer: false\nconfigs:\n- config_name: other\n"
        "  data_files: other/*.parquet\n  default: true\nextra_gated_prompt: please\n---\n"
    )
    data = build_card(
        {}, data=rows(["x"]), repo_id="u/x", existing=existing, source_card="---\nlicense: gpl-3.0\n---"
    ).data
    assert (data.license, data.pretty_name, data["viewer"]) == ("mit", "Ours", False)
    assert data.tags == ["mine", "ladm", "long-context", "data-selection"]
    assert [each["config_name"] for each in data["configs"]] == ["default", "other"]
    assert data["extra_gated_prompt"] == "please"
    assert build_card({}, data=rows(["x"]), existing=existing, license="apache-2.0").data.license == "apache-2.0"


def test_norwegian_and_a_byte_order_mark_are_read():
    for text, language in (("\n- no\n- nb", ["no", "nb"]), (" no", "no")):
        readme = f"\ufeff---\nlanguage:{text}\nlicense: mit\n---\nwords\n"
        for card in (build_card({}, data=rows(["x"]), **{name: readme}) for name in ("existing", "source_card")):
            data = DatasetCard(str(card)).data
            assert (data.language, data.license) == (language, "mit")


def test_front_matter_that_is_no_yaml_is_refused():
    for text in ("---\n[a\n---\n", "---\n- a\n- b\n---\n"):
        with pytest.raises(InputError, match="front matter"):
            build_card({}, data=rows(["x"]), existing=text)
    with pytest.raises(InputError, match="both are None"):
        build_card({})


def test_hostile_names_change_nothing_but_their_own_cell():
    selection = hostile_selection()
    card = build_card(RUN, selection, repo_id="u/x")
    tame = build_card(
        RUN, select(rows([f"d{i}" for i in range(len(HOSTILE) - 1)]), budget_tokens=10_000), repo_id="u/x"
    )
    assert yaml.safe_load(str(card).split("---\n")[1]).keys() == yaml.safe_load(str(tame).split("---\n")[1]).keys()
    lines, others = str(card).splitlines(), str(tame).splitlines()
    assert len(table_rows(card.text)) == len(table_rows(tame.text))
    budget = set(table_rows(card.text)) | set(table_rows(tame.text))
    sizes = re.compile(r"\s*(num_bytes|download_size|dataset_size): ")
    kept = [[line for line in text if line not in budget and not sizes.match(line)] for text in (lines, others)]
    assert kept[0] == kept[1]


@given(st.text(max_size=300))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_cell_is_one_inert_piece(value):
    shown = cell(value)
    assert "\n" not in shown
    assert "\r" not in shown
    for char in "|<>`{}\"'$@:":
        assert char not in shown
    assert not re.search(r"(?<!\\)[*_\[\]()#!~]", re.sub(r"&#\d+;", "", shown))
    assert len(value) > 120 or sum(c.isalnum() for c in re.sub(r"&#\d+;", "", shown)) == sum(c.isalnum() for c in value)


@given(st.text(alphabet="`ab\n", max_size=40))
def test_a_fence_holds_its_content(code):
    block = fence(code, "bash").splitlines()
    marks = re.match("`+", block[0])[0]
    assert block[-1] == marks
    assert not any(line.startswith(marks) for line in block[1:-1])


class Cells(html.parser.HTMLParser):
    """The first cell of each table row, and every tag."""

    def __init__(self):
        super().__init__()
        self.tags, self.cells, self._in = [], [], False

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "td":
            self._in = True
            self.cells.append("")

    def handle_endtag(self, tag):
        self._in = self._in and tag != "td"

    def handle_data(self, data):
        if self._in:
            self.cells[-1] += data


def test_rendered_by_a_commonmark_library_names_are_shown_as_they_are():
    markdown_it = pytest.importorskip("markdown_it")
    text = build_card(RUN, hostile_selection(), repo_id="u/x").text
    parser = Cells()
    parser.feed(markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table").render(text))
    assert not {"script", "img", "em", "strong", "s", "h6"} & set(parser.tags)
    for name in (
        "a | b",
        "`code`",
        "{{ 7 * 7 }}",
        "---",
        "<script>alert(1)</script>",
        "<!-- ladm:end -->",
        "*bold*",
        "\\|",
    ):
        assert name in parser.cells


def test_the_card_names_calculator_source_and_commands_by_their_real_values(tmp_path):
    pool = rows(["web"] * 6)
    (tmp_path / "scored" / "data").mkdir(parents=True)
    pool.to_parquet(tmp_path / "scored" / "data" / "train-00000-of-00001.parquet")
    identity = {**run_record().identity, "model": "user/calculator@c0ffee"}
    run = run_record(
        identity=identity, calculator="user/calculator", calculator_revision="c0ffee", command="ladm score pool scored",
        hub={"id": "user/pool", "revision": "v1"},
    )  # fmt: skip
    run.save(tmp_path / "scored")
    selection = select(tmp_path / "scored", budget_tokens=500)
    selection.save(tmp_path / "selected")
    loaded = Selection.load(tmp_path / "selected")
    text = build_card(loaded.run, loaded).text
    command = f"ladm select {tmp_path / 'scored'} {tmp_path / 'selected'} --budget 500"
    assert f"ladm score pool scored\n{command}\n" in text
    assert "user/calculator (revision c0ffee, dtype float32)" in text
    assert "user/pool (revision v1" in text
    # a run that was started from Python has no command line
    call = run_record(command="the same call of score_dataset()")
    assert "the same call" not in build_card(call, loaded).text


def test_one_document_is_not_called_documents():
    assert "1 document, scored" in build_card({}, data=rows(["x"])).text
    assert "1 long document, chosen" in build_card({}, select(rows(["x"]), budget_tokens=500)).text
