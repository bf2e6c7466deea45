"""The card of packed data names what made them, from the scoring run on, and no place of this machine."""

import json
from pathlib import Path

import pytest
from conftest import run_record
from datasets import Dataset
from huggingface_hub import DatasetCard, HfApi

from fake_hub.fixtures import fake_hub, hub_process  # noqa: F401
from ladm_hf import pack, select
from ladm_hf.publishing.publish import publish
from ladm_hf.publishing.retry import RetryPolicy
from ladm_hf.text import byte_count, local_name, without_places

REPO = "tester/packed"


def scored(folder: Path) -> Path:
    rows = {
        "text": [f"words of document {n} " * 9 for n in range(12)], "domain": ["a", "b"] * 6,
        "ladm_score": [float(n) for n in range(12)], "ladm_num_tokens": [3000] * 12, "ladm_status": ["ok"] * 12,
        "ladm_repetition": [0.0] * 12,
    }  # fmt: skip
    (folder / "data").mkdir(parents=True)
    Dataset.from_dict(rows).to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    run_record(command=f"ladm score '{folder.parent}/my pool/*.parquet' {folder} --limit 12").save(folder)
    return folder


@pytest.mark.parametrize("in_memory", [False, True])
def test_the_card_of_packed_data_names_every_command_of_its_making(fake_hub, tmp_path, in_memory):
    folder = scored(tmp_path / "scored")
    pool = Dataset.from_parquet(str(folder / "data" / "train-00000-of-00001.parquet")) if in_memory else folder
    selection = select(pool, strategy="top-k", k=2, keep={"ladm_score": (None, 99)})
    if not in_memory:
        selection.save(tmp_path / "out" / "selected")
    short = tmp_path / "earlier"
    short.mkdir()
    Dataset.from_dict({"text": ["a short one"] * 9}).to_parquet(short / "rows.parquet")
    pack(
        selection if in_memory else tmp_path / "out" / "selected", tmp_path / "packed", tokenizer="ladm-nano",
        length=128, short=short, short_share=0.1, progress=False,
    )  # fmt: skip
    publish(tmp_path / "packed", REPO, license="mit", retry=RetryPolicy(tries=2))
    read = {
        name: Path(HfApi().hf_hub_download(REPO, name, repo_type="dataset")).read_text()
        for name in ("README.md", "ladm_manifest.json")
    }
    for text in read.values():
        assert str(tmp_path) not in text
    card = DatasetCard(read["README.md"])
    packing = "ladm pack {} packed --tokenizer ladm-nano --length 128 --short earlier --short-share 0.1\n"
    if in_memory:
        call = "select(scored, strategy='top-k', k=2, keep={'ladm_score': [None, 99.0]})"
        assert f"```bash\n# in Python, of the scored rows: {call}\n" in card.text
        assert packing.format("SELECTED") in card.text
    else:
        before = (
            "ladm score 'my pool/*.parquet' scored --limit 12\n"
            "ladm select scored selected --strategy top-k -k 2 --keep ladm_score=:99.0\n"
        )
        assert f"```bash\n{before}{packing.format('selected')}" in card.text
        assert json.loads(read["ladm_manifest.json"])["run"]["command"] in card.text
    shown = card.text.replace("\\", "")
    assert "- selection: strategy top-k, by domain" in shown
    assert "kept within ladm_score to 99" in shown
    assert "% of the tokens, of earlier" in shown
    assert card.data["ladm"]["selection"]["strategy"] == "top-k"


def test_what_is_published_of_a_selection_names_no_place_of_this_machine(fake_hub, tmp_path):
    select(scored(tmp_path / "scored"), strategy="top-k", k=2).save(tmp_path / "selected")
    publish(tmp_path / "selected", REPO, license="mit", retry=RetryPolicy(tries=2))
    for name in ("README.md", "ladm_manifest.json"):
        text = Path(HfApi().hf_hub_download(REPO, name, repo_type="dataset")).read_text()
        assert "ladm score 'my pool/*.parquet' scored --limit 12" in text
        assert str(tmp_path) not in text
        assert ("ladm select scored selected --strategy top-k -k 2" in text) == (name == "README.md")


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("ladm score /home/me/pool/ /home/me/pool2 --seed 1", "ladm score pool pool2 --seed 1"),
        ("ladm score '/home/m e/a b' s3://bucket/home/me out", "ladm score 'a b' s3://bucket/home/me out"),
        ("torchrun --nproc_per_node 2 -m ladm_hf score /x/runs/a/data out", "{} a/data out"),
        ("ladm score '/x/pool/**/*.jsonl' file:///home/me/out", "ladm score '**/*.jsonl' out"),
        ("ladm score \"/home/me/it\" '~/out'", 'ladm score "it" out'),
        ("ladm select / hf://datasets/a/b", "ladm select / hf://datasets/a/b"),
        ("# in Python: select('/x')", "# in Python: select('/x')"),
        ('ladm score "unclosed /x', 'ladm score "unclosed /x'),
    ],
)
def test_commands_are_shown_without_the_places_of_this_machine(line, shown):
    assert without_places(line) == shown.format("torchrun --nproc_per_node 2 -m ladm_hf score")
    assert without_places(f"{line}\nladm env") == f"{without_places(line)}\nladm env"
    assert local_name("relative/to/here") == "relative/to/here"


def test_bytes_are_written_for_people():
    assert [byte_count(n) for n in (0, 999, 1000, 12_345_678, 5e11, 1.5e15)] == [
        "0 bytes", "999 bytes", "1 kB", "12.3 MB", "500 GB", "1,500 TB",
    ]  # fmt: skip
