from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from conftest import tiny_model

from ladm_hf import LadmConfig, LadmScorer
from ladm_hf.errors import ConfigError, InputError
from ladm_hf.training import calibration as module
from ladm_hf.training import figures
from ladm_hf.training.calibration import Calibration, calibrate, write_calibration
from ladm_hf.training.contrasts import Contrast
from ladm_hf.training.documents import TokenizedDocument
from ladm_hf.training.heads import HeadScores
from ladm_hf.training.plots import plot_calibration
from ladm_hf.training.tokenizer import train_tokenizer

SMALL = LadmConfig(span_length=16, max_length=2048)
OPTIONS = {"lengths": (512,), "windows": 4, "config": SMALL, "device": "cpu"}


def story(number: int) -> str:
    return "\n\n".join(
        f"On day {number}.{day}, said Lan{number}, it rained. It did {day * 7 % 97}." for day in range(160)
    )


@pytest.fixture(scope="module", autouse=True)
def few_rounds():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "ROUNDS", 20)
        yield


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([story(0), story(1)], vocab_size=400)


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("calculator")
    tiny_model(vocab_size=len(tokenizer)).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def documents(tokenizer) -> list[TokenizedDocument]:
    found = []
    for number in range(24):
        ids = np.array(tokenizer(story(number))["input_ids"], np.int32)
        found.append(TokenizedDocument(ids, f"d{number % 2}", f"s{number % 12}", key=str(number)))
    table = np.array(tokenizer("\n".join(f"{i},{7 * i}" for i in range(400)))["input_ids"], np.int32)
    return [*found, *(TokenizedDocument(table + 0, "csv", f"t{i}", "degenerate", f"t{i}") for i in range(2))]


@pytest.fixture(scope="module")
def found(folder, documents) -> Calibration:
    return calibrate(folder, documents, **OPTIONS)


def test_every_question_is_reported_on_the_other_half_with_intervals(found) -> None:
    assert {row.question for row in found.rows} == {"", "splices", "degenerate", "order", "dependency"}
    for row in found.rows:
        for figure in (row.chosen, row.all_heads, row.best_head):
            assert 0 <= figure.value <= 1
            assert figure.low <= figure.high
        assert row.ahead.value == pytest.approx(row.chosen.value - row.all_heads.value)
        assert row.windows > 0
    splices = [row for row in found.rows if row.question == "splices"]
    assert splices[0].windows == sum(row.windows for row in splices[1:])
    assert splices[0].chosen.value == pytest.approx(np.mean([row.chosen.value for row in splices[1:]]))
    assert found.row("degenerate", "csv, given").windows == 1
    assert found.row().windows == sum(row.windows for row in found.rows if row.kind)
    assert set(found.absent) >= {"joined short documents"}
    with pytest.raises(KeyError):
        found.row("splices", "csv, given")


def test_no_source_is_both_chosen_by_and_reported_on(monkeypatch, folder, documents) -> None:
    seen: list[set[tuple[str, str]]] = []
    genuine = module.contrasts

    def spy(mine, *args, **kwargs):
        seen.append({(document.domain, document.source) for document in mine})
        return genuine(mine, *args, **kwargs)

    monkeypatch.setattr(module, "contrasts", spy)
    calibrate(folder, documents, **OPTIONS, layers=[0])
    assert len(seen) == 2
    assert not seen[0] & seen[1]
    assert seen[0] | seen[1] == {(document.domain, document.source) for document in documents}


def plant(monkeypatch: pytest.MonkeyPatch, good: tuple[int, int]) -> None:
    """Makes one head know what is natural."""
    made: list[Contrast] = []
    genuine, read = module.contrasts, module.read_heads

    def noted(*args, **kwargs):
        new = genuine(*args, **kwargs)
        made.extend(new)
        return new

    def planted(engine, windows, layers=None, progress=False):
        scores: HeadScores = read(engine, windows, layers, progress)
        natural = {window.ids.tobytes() for window in made if window.kind == "natural"}
        knows = np.array([3.0 if ids.tobytes() in natural else 0.1 for ids in windows])
        scores.ratios["no_std"][:, scores.heads.index(good)] = knows
        return scores

    monkeypatch.setattr(module, "contrasts", noted)
    monkeypatch.setattr(module, "read_heads", planted)


def test_the_head_that_knows_is_chosen_and_holds_on_the_other_half(monkeypatch, folder, documents) -> None:
    plant(monkeypatch, (1, 2))
    found = calibrate(folder, documents, **OPTIONS)
    assert found.config.heads == ((1, 2),)
    assert found.config.weights == (1.0,)
    assert found.config.ablation == "no_std"
    assert found.best_head == (1, 2)
    assert found.row().chosen.value == found.row().chosen.low == found.row().choosing == 1.0
    assert max(found.heads, key=lambda head: found.heads[head]) == "1.2"


def test_the_scorer_uses_what_is_written(folder, found, tmp_path, documents) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    path = write_calibration(copy, found)
    assert LadmScorer(copy).config == found.config == LadmConfig.from_json_file(path).over(LadmConfig.paper())
    values = json.loads(path.read_text())
    assert set(values) == {"span_length", "max_length", "heads", "weights", "calibration"} | (
        {"ablation"} if found.config.ablation else set()
    )
    record = values["calibration"]
    assert record["figures"][0]["chosen"]["value"] == round(found.row().chosen.value, 4)
    assert record["chosen_on"]["documents"] == 24
    assert record["chosen_on"]["degenerate_documents"] == 2
    assert len(record["objective_by_head"]) == 12
    with pytest.raises(ConfigError, match="local folder"):
        write_calibration("owner/name", found)


def test_a_choice_stays_until_it_is_beaten(monkeypatch, folder, tmp_path, documents) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    first = calibrate(copy, documents, **OPTIONS, max_heads=1)
    # as good, but no start of the search by itself: the same head, and one that hardly counts
    (head,) = first.config.heads
    other = next(pair for pair in ((0, 0), (1, 1)) if pair != head)
    own = replace(first.config, heads=(head, other), weights=(1.0, 1e-9))
    (copy / "ladm_config.json").write_text(json.dumps(own.to_dict()))
    assert calibrate(copy, documents, **OPTIONS, max_heads=2).config == own
    # a head that knows beats it
    plant(monkeypatch, (1, 2))
    assert calibrate(copy, documents, **OPTIONS, max_heads=2).config.heads == ((1, 2),)


def test_a_model_of_few_positions_keeps_to_them(tokenizer, documents, tmp_path) -> None:
    tiny_model(vocab_size=len(tokenizer), max_position_embeddings=600, num_hidden_layers=1).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    small = calibrate(tmp_path, documents, windows=4, config=LadmConfig(span_length=16), device="cpu")
    assert small.data["lengths"] == [600]
    assert small.config.max_length == 600
    with pytest.raises(ConfigError, match="600 positions, fewer than the 2,305"):
        calibrate(tmp_path, documents, windows=4, device="cpu")


def test_what_cannot_be_calibrated_is_refused(folder, documents) -> None:
    for few in (documents[:3], []):
        with pytest.raises(InputError, match="too few"):
            calibrate(folder, few, **OPTIONS)
    for options in ({"max_heads": 0}, {"windows": 1}, {"lengths": ()}, {"lengths": (128,)}):
        with pytest.raises(ConfigError):
            calibrate(folder, documents, **OPTIONS | options)


def test_table_and_picture_tell_the_choice(found, tmp_path) -> None:
    lines = found.table().splitlines()
    assert len({len(line) for line in lines}) == 1
    assert [cell.strip() for cell in lines[0].split("|")[2:6]] == ["windows", "chosen on", "chosen", "all heads"]
    assert lines[2].startswith("| **objective**")
    assert any(line.startswith("| 2 pieces ") for line in lines)
    plot_calibration(found).savefig(tmp_path / "heads.png")
    assert (tmp_path / "heads.png").read_bytes().startswith(b"\x89PNG")
    assert not any(math.isnan(value) for value in found.heads.values())
