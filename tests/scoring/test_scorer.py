"""LadmScorer: rows in, scores out, nothing lost."""

from __future__ import annotations

import math
import re
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL, random_ids, tiny_model, torch_threads
from tqdm import tqdm

from ladm_hf import DocumentScore, LadmConfig, LadmScorer, ladm_score
from ladm_hf.errors import BackendError, ColumnError, ConfigError, InputError, RowError
from ladm_hf.scoring.begun import Begun
from ladm_hf.scoring.engine import Engine
from ladm_hf.scoring.loader import Loader
from ladm_hf.scoring.rows import HostThreads, begin_scoring

GOOD = random_ids(500, seed=7)


@pytest.fixture(scope="module")
def scorer() -> LadmScorer:
    return LadmScorer(tiny_model(), config=SMALL)


@pytest.fixture(scope="module")
def nano() -> LadmScorer:
    return LadmScorer(config=LadmConfig(span_length=16, max_length=1024))


def words(count: int, seed: int = 0) -> str:
    rng = np.random.default_rng(seed)
    vocabulary = np.array("the of attention span document model long short far near reads writes".split())
    return " ".join(rng.choice(vocabulary, count))


def test_batch_result_has_the_contracts_types(nano: LadmScorer) -> None:
    result = nano({"text": [words(600), None, words(5)]})
    assert list(result) == ["ladm_score", "ladm_num_tokens", "ladm_status", "ladm_repetition"]
    assert result["ladm_repetition"].dtype == np.float64
    assert result["ladm_score"].dtype == np.float64
    assert result["ladm_num_tokens"].dtype == np.int32
    assert result["ladm_status"] == ["ok", "null", "too_short"]
    assert result["ladm_score"][0] > 0
    assert np.isnan(result["ladm_score"][1:]).all()


def test_the_number_of_threads_changes_no_score(nano: LadmScorer) -> None:
    texts, found = [words(600), words(310, seed=1), words(450, seed=2)], []
    for count in (1, 2, 3):
        with torch_threads(count):
            found.append([document.score for document in nano.score_texts(texts)])
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    ("row", "status"),
    [
        (None, "null"),
        ([], "empty"),
        (GOOD[:100], "too_short"),
        ("abc", "error: expected a flat sequence of integers"),
        ([1.5] * 400, "error: expected a flat sequence of integers"),
        ([GOOD], "error: expected a flat sequence of integers"),
        ([[1], [2, 3]], "error: expected a flat sequence of integers"),
        ([1, 97] * 300, "error: token ids run from 1 to 97, a vocabulary of at least 98, but the model's has 97"),
        ([-1, 5] * 300, "error: token ids run from -1 to 5"),
        (7, "error: expected a flat sequence of integers"),
    ],
)
def test_a_bad_row_of_ids_never_takes_its_batch_with_it(scorer: LadmScorer, row, status: str) -> None:
    alone = scorer.score_input_ids([GOOD])[0]
    scores = scorer.score_input_ids([GOOD, row, GOOD])
    assert scores[0] == scores[2] == alone
    assert scores[1].status.startswith(status)
    assert math.isnan(scores[1].score)
    assert scores[1].layer_scores == ()
    strict = LadmScorer(scorer.calculator.model, config=SMALL, on_error="raise")
    with pytest.raises(RowError, match=r"row 1 of this batch, column 'input_ids': "):
        strict.score_input_ids([GOOD, row, GOOD])


@pytest.mark.parametrize(
    ("row", "status"),
    [
        (None, "null"),
        ("", "empty"),
        (" \n\t", "empty"),
        ("short", "too_short"),
        (12, "error: expected a string, found int"),
        (["a"], "error: expected a string, found list"),
        ("\ud800" * 3000, "error: the tokenizer refused the text"),
    ],
)
def test_a_bad_text_never_takes_its_batch_with_it(nano: LadmScorer, row, status: str) -> None:
    good = words(600)
    scores = nano.score_texts([row, good])
    assert scores[0].status.startswith(status)
    assert scores[1] == nano.score_texts([good])[0]
    strict = LadmScorer(config=nano.config, on_error="raise")
    with pytest.raises(RowError, match="row 0 of this batch, column 'text'"):
        strict({"text": [row, good]})


def test_a_score_that_is_not_finite_is_an_error_of_its_row() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.embed_tokens.weight[96] = torch.inf
    scorer = LadmScorer(model, config=SMALL)
    good = [token % 96 for token in GOOD]
    scores = scorer.score_input_ids([[96, *good], good])
    assert scores[0].status == "error: the score is not finite in float32"
    assert scores[1].status == "ok"


@pytest.mark.parametrize("max_batch_tokens", [1, 900, 2000, 100_000])
def test_a_score_does_not_depend_on_its_batch(max_batch_tokens: int) -> None:
    model = tiny_model()
    documents = [random_ids(length, seed=length) for length in (350, 353, 500, 900, 1200, 700, 2048)]
    alone = [LadmScorer(model, config=SMALL).score_input_ids([ids])[0] for ids in documents]
    together = LadmScorer(model, config=SMALL, max_batch_tokens=max_batch_tokens).score_input_ids(documents)
    for one, other in zip(alone, together, strict=True):
        assert other.score == pytest.approx(one.score, rel=1e-5)
        assert other.layer_scores == pytest.approx(one.layer_scores, rel=1e-5)
        assert other.num_tokens == one.num_tokens


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_close(llama_folder, dtype: str) -> None:
    exact = LadmScorer(llama_folder, config=SMALL).score_input_ids([GOOD])[0].score
    half = LadmScorer(llama_folder, config=SMALL, dtype=dtype).score_input_ids([GOOD])[0].score
    assert half == pytest.approx(exact, rel=0.1)


def test_truncation_scores_the_first_tokens(scorer: LadmScorer) -> None:
    ids = random_ids(2500)
    assert scorer.score_input_ids([ids]) == scorer.score_input_ids([ids[:2048]])
    assert scorer.score_input_ids([ids])[0].num_tokens == 2048


def test_windows_are_weighted_by_tokens(scorer: LadmScorer) -> None:
    config = LadmConfig(span_length=16, max_length=600, overflow="windows")
    windows = LadmScorer(scorer.calculator.model, config=config)
    # two whole windows, one shorter, and a rest too short to score
    for length, parts in ((1650, [600, 600, 450]), (1300, [600, 600])):
        ids = random_ids(length)
        starts = [0, 600, 1200][: len(parts)]
        pieces = windows.score_input_ids([ids[s : s + n] for s, n in zip(starts, parts, strict=True)])
        (score,) = windows.score_input_ids([ids])
        assert score.num_tokens == sum(parts)
        assert score.score == pytest.approx(np.average([piece.score for piece in pieces], weights=parts))
        assert score.score == pytest.approx(np.mean(score.layer_scores))


def test_out_of_memory_costs_one_document_at_most(scorer: LadmScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Engine.measure

    def score(self, documents):
        if sum(map(len, documents)) > 1000:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, documents)

    documents = [random_ids(n, seed=n) for n in (400, 450, 500, 1500)]
    expected = scorer.score_input_ids(documents)
    monkeypatch.setattr(Engine, "measure", score)
    small = LadmScorer(scorer.calculator.model, config=SMALL, max_batch_tokens=10_000)
    actual = small.score_input_ids(documents)
    assert [s.status for s in actual[:3]] == ["ok"] * 3
    assert [s.score for s in actual[:3]] == pytest.approx([s.score for s in expected[:3]], rel=1e-5)
    assert actual[3].status == "error: out of memory at 1500 tokens in one piece"


def test_text_wins_over_ids(nano: LadmScorer) -> None:
    text = words(600)
    both = nano({"text": [text], "input_ids": [random_ids(500)]})
    assert both["ladm_score"] == nano({"text": [text]})["ladm_score"]
    ids_only = LadmScorer(config=nano.config, text_column=None)
    ids = ids_only._load(None).tokenizer(text)["input_ids"]
    assert ids_only({"text": [None], "input_ids": [ids]})["ladm_score"] == both["ladm_score"]


def test_missing_columns_are_named(nano: LadmScorer) -> None:
    with pytest.raises(ColumnError, match=r"no column 'text' nor 'input_ids'.*'body', 'id'.*text_column="):
        nano({"body": ["x"], "id": [1]})
    with pytest.raises(ColumnError, match="no column 'input_ids'"):
        LadmScorer(text_column=None)({"text": ["x"]})


def test_a_call_that_is_not_batched_says_so(nano: LadmScorer) -> None:
    for row in ({"text": "one document"}, {"text": None}, {"input_ids": [1, 2, 3]}):
        with pytest.raises(ColumnError, match="batched=True"):
            nano(row)


def test_bare_lists_serve_input_columns(nano: LadmScorer) -> None:
    text = words(600)
    expected = nano({"text": [text]})["ladm_score"]
    assert nano([text])["ladm_score"] == expected
    ids = nano._load(None).tokenizer(text)["input_ids"]
    assert nano([ids])["ladm_score"] == expected
    assert len(nano([])["ladm_score"]) == 0


@pytest.mark.parametrize("first", [None, 5])
def test_a_bad_first_row_of_a_bare_list_is_bad_alone(nano: LadmScorer, first) -> None:
    ids = nano._load(None).tokenizer(words(600))["input_ids"]
    assert nano([first, ids, ids])["ladm_status"][1:] == ["ok", "ok"]
    assert nano([first, words(600), words(600)])["ladm_status"][1:] == ["ok", "ok"]
    assert nano({"input_ids": [first, ids]})["ladm_status"][1:] == ["ok"]
    assert nano({"text": [12]})["ladm_status"] == ["error: expected a string, found int"]


def test_devices_that_cannot_be_used_are_named(llama_folder) -> None:
    with pytest.raises(ConfigError, match="'gpu'"):
        LadmScorer(device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(BackendError, match="no CUDA device"):
            LadmScorer(llama_folder, config=SMALL, device="cuda").score_input_ids([GOOD])
        with pytest.raises(BackendError, match="cuda:7"):
            LadmScorer(llama_folder, config=SMALL, device="cuda:7").score_input_ids([GOOD])


@pytest.mark.parametrize("live", [True, False])
def test_a_journal_follows_a_model_that_changes(tmp_path, live: bool) -> None:
    model, folder = tiny_model(), tmp_path / "model"
    model.save_pretrained(folder)
    scorer = LadmScorer(model if live else folder, config=SMALL, journal=tmp_path / "journal")
    before = scorer({"input_ids": [GOOD]})["ladm_score"][0]
    with torch.no_grad():
        for layer in model.layers:
            layer.self_attn.q_proj.weight.mul_(0.1)
    model.save_pretrained(folder)
    after = scorer({"input_ids": [GOOD]})["ladm_score"][0]
    assert after == LadmScorer(model, config=SMALL)({"input_ids": [GOOD]})["ladm_score"][0] != before


def test_empty_batch(nano: LadmScorer) -> None:
    result = nano({"text": []})
    assert (result["ladm_score"].shape, result["ladm_num_tokens"].dtype, result["ladm_status"]) == ((0,), np.int32, [])


def test_numpy_and_tensor_rows(scorer: LadmScorer) -> None:
    rows = [GOOD, np.array(GOOD, dtype=np.int16), torch.tensor(GOOD), tuple(GOOD)]
    scores = scorer({"input_ids": rows})["ladm_score"]
    assert len(set(scores)) == 1


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"dtype": "int8"}, "dtype"),
        ({"backend": "flash"}, "backend"),
        ({"on_error": "skip"}, "on_error"),
        ({"config": {"span_length": 3}}, "LadmConfig"),
        ({"max_batch_tokens": 0}, "max_batch_tokens"),
        ({"text_column": None, "input_ids_column": None}, "nothing to read"),
    ],
)
def test_bad_options_are_named(options, name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        LadmScorer(**options)


def test_dtype_and_backend_change_what_they_say(llama_folder) -> None:
    assert LadmScorer(llama_folder, dtype=torch.bfloat16).dtype == "bfloat16"
    assert LadmScorer(llama_folder).dtype == "float32"
    naive = LadmScorer(llama_folder, config=SMALL, backend="naive").score_input_ids([GOOD])[0]
    chunked = LadmScorer(llama_folder, config=SMALL).score_input_ids([GOOD])[0]
    assert naive.score == pytest.approx(chunked.score, rel=1e-5)


def test_focus_map_is_what_the_score_is_made_of(nano: LadmScorer) -> None:
    text = words(900)
    focus = nano.focus_map(text)
    assert focus.score == nano.score_texts([text])[0]
    assert focus.pfs.shape == focus.key_starts.shape == (len(focus.query_starts), focus.pfs.shape[1])
    assert (np.isnan(focus.pfs) == (focus.key_starts < 0)).all()
    assert np.nanmin(focus.pfs) >= 0
    assert focus.offsets is not None
    first, last = focus.offsets[focus.query_starts[0]]
    assert text[first:last].strip()
    from_ids = nano.focus_map(nano._load(None).tokenizer(text)["input_ids"])
    assert from_ids.offsets is None
    np.testing.assert_array_equal(from_ids.pfs, focus.pfs)


def test_focus_map_of_a_long_document_is_of_its_first_tokens(nano: LadmScorer) -> None:
    focus = nano.focus_map(words(4000))
    assert focus.score.num_tokens == nano.config.max_length == len(focus.offsets)


@pytest.mark.parametrize("document", ["", "short", [1, 2, 3], [-1] * 600, None])
def test_no_focus_map_without_a_score(nano: LadmScorer, document) -> None:
    with pytest.raises(RowError, match="no focus map"):
        nano.focus_map(document)


def test_progress_is_shown_when_asked(nano: LadmScorer, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr("ladm_hf.scoring.rows.PROGRESS_DELAY", 0)
    nano.score_texts([words(600)], progress=False)
    assert capsys.readouterr().err == ""
    nano.score_texts([words(600)], progress=True)
    assert "LADM" in capsys.readouterr().err


def test_many_texts_are_tokenised_in_groups(nano: LadmScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [words(500 + 20 * i, seed=i) for i in range(5)]
    expected = nano.score_texts(texts)
    monkeypatch.setattr("ladm_hf.scoring.rows.TOKENIZE_CHARS", 5000)
    assert nano.score_texts(texts) == expected


def test_document_score_is_a_plain_record() -> None:
    assert DocumentScore(0.5, 10, "ok", (0.5,), 0.1) == DocumentScore(0.5, 10, "ok", (0.5,), 0.1)
    assert repr(ladm_score) == "LadmScorer($LADM_MODEL or ladm-nano)"
    assert "llama" in repr(LadmScorer(tiny_model())).lower()


def test_one_text_in_place_of_a_list_says_so(nano: LadmScorer) -> None:
    with pytest.raises(InputError, match="found one text"):
        nano.score_texts("a text")


def test_threads_ahead_of_the_device_change_nothing(nano: LadmScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [words(600), None, words(40), "", words(700), b"\xff", 7, words(650, seed=3), "\ud800 " * 90]
    ids = [random_ids(600), "no ids", [], random_ids(700, seed=2), None]
    expected, of_ids = nano.score_texts(texts), nano.score_input_ids(ids)
    monkeypatch.setattr(Loader, "works_ahead", lambda self, rank: True)
    monkeypatch.setattr("ladm_hf.scoring.rows.TOKENIZE_CHARS", 4000)
    monkeypatch.setattr("ladm_hf.scoring.rows.THREAD_CHARS", 1000)
    ahead = LadmScorer("ladm-nano", config=nano.config)
    assert repr(ahead.score_texts(texts)) == repr(expected)
    assert any(thread.name.startswith("ladm-tokenizer") for thread in threading.enumerate())
    assert repr(ahead.score_input_ids(ids)) == repr(of_ids)
    assert ahead.score_texts([]) == []
    first, second = ahead.begin({"text": texts[:4]}), ahead.begin({"text": texts[4:]})
    assert [*first()["ladm_status"], *second()["ladm_status"]] == [score.status for score in expected]
    strict = LadmScorer("ladm-nano", config=nano.config, on_error="raise")
    with pytest.raises(RowError, match=r"row 2 .*too_short"):
        strict.score_texts([texts[0], texts[4], texts[2]])


def test_several_threads_score_with_one_model_at_once() -> None:
    live = tiny_model(attention_dropout=0.5).train()
    scorers = [LadmScorer(live, config=config) for config in (SMALL, replace(SMALL, max_length=300))]
    calls = [(scorer, [random_ids(400 + i, seed=i)]) for i in range(12) for scorer in scorers]

    def score(call: tuple[LadmScorer, list[list[int]]]) -> list[DocumentScore]:
        return call[0].score_input_ids(call[1])

    with ThreadPoolExecutor(4) as threads:
        at_once = list(threads.map(score, calls))
    assert live.training
    assert at_once == list(map(score, calls))


def test_threads_load_a_model_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer, loaded = LadmScorer(tiny_model(), config=SMALL), []

    def load(*options: Any) -> Engine:
        loaded.append(options)
        time.sleep(0.1)
        return Engine(*options)

    monkeypatch.setattr("ladm_hf.scoring.loader.Engine", load)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(scorer.score_input_ids, [[GOOD]] * 4))
    assert len(loaded) == 1


def test_a_model_without_calibration_warns_at_its_first_score_alone(llama_folder) -> None:
    ids = [random_ids(700)]
    scorer = LadmScorer(llama_folder, config=LadmConfig(span_length=16))
    with pytest.warns(UserWarning, match=re.escape(f"`ladm calibrate {llama_folder}` chooses")):
        scorer.score_input_ids(ids)
    for asked in (LadmConfig.paper(span_length=16), LadmConfig(span_length=16, heads=((1, 0),))):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            scorer.score_input_ids(ids)
            LadmScorer(llama_folder, config=asked).score_input_ids(ids)
    (llama_folder / "ladm_config.json").write_text('{"heads": [[1, 0]]}')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LadmScorer(llama_folder, config=LadmConfig(span_length=16)).score_input_ids(ids)


def test_no_token_ids_wait_for_what_is_counted_beside_the_score(monkeypatch: pytest.MonkeyPatch) -> None:
    scored = threading.Event()

    def count(documents: list[Any]) -> list[tuple[float, dict[str, float]]]:
        assert scored.wait(20)
        return [(float(len(document)), {}) for document in documents]

    def start(ids: list[Any], first: int) -> Any:
        scored.set()
        return lambda: [DocumentScore(0.0, len(row), "ok") for row in ids]

    texts = ["word " * n for n in range(1, 7)]
    monkeypatch.setattr("ladm_hf.scoring.rows.THREAD_CHARS", 12)
    with ThreadPoolExecutor(1) as tokenizing, ThreadPoolExecutor(1) as counting:
        encode = lambda some: [np.arange(len(text)) for text in some]  # noqa: E731
        found = begin_scoring(texts, encode, count, start, HostThreads(tokenizing, counting))()
    assert [(one.num_tokens, one.repetition) for one in found] == [(len(text), len(text)) for text in texts]


@pytest.mark.parametrize("failing", [None, "start", "finish"])
def test_few_groups_of_a_call_are_under_way_at_once(monkeypatch: pytest.MonkeyPatch, failing: str | None) -> None:
    under_way: list[int] = []

    def start(ids: list[Any], first: int) -> Any:
        under_way.append(first)
        assert len(under_way) <= 2
        if failing and first == 4:
            raise RowError("row 4")

        def finish() -> list[DocumentScore]:
            under_way.remove(first)
            if failing == "finish" and first == 3:
                raise RowError("row 3")
            return [DocumentScore(float(first), len(row), "ok") for row in ids]

        return finish

    monkeypatch.setattr("ladm_hf.scoring.rows.THREAD_CHARS", 1)
    monkeypatch.setattr("ladm_hf.scoring.rows.TOKENIZE_CHARS", 1)
    with ThreadPoolExecutor(1) as pool:
        ids, count = [np.arange(9)] * 8, lambda documents: [(0.0, {}) for _ in documents]
        begun = begin_scoring(ids, None, count, start, HostThreads(pool, pool))
        if failing is None:
            assert [found.score for found in begun()] == list(range(8))
        else:
            with pytest.raises(RowError, match="row 3" if failing == "finish" else "row 4"):
                begun()


@pytest.mark.parametrize("fails", [False, True])
def test_groups_of_a_call_share_the_batches_in_flight_and_leave_no_bar(monkeypatch, fails: bool) -> None:
    running, most, bars = [], [], []

    def start_all(self: Engine, documents: list[Any]) -> Any:
        for i, document in enumerate(documents):
            if fails and len(document) == 606:
                raise RuntimeError("the device")
            found = self.measure([document])
            running.append(found)
            most.append(len(running))
            yield [i], lambda found=found: (running.remove(found), found)[1]

    def bar(*args: Any, **options: Any) -> tqdm:
        bars.append(tqdm(*args, **options))
        return bars[-1]

    given = [random_ids(length) for length in range(600, 610)]
    expected = LadmScorer(tiny_model(), config=SMALL).score_input_ids(given)
    monkeypatch.setattr(Loader, "works_ahead", lambda self, rank: True)
    monkeypatch.setattr(Engine, "start_all", start_all)
    monkeypatch.setattr(Engine, "in_flight", 2)
    monkeypatch.setattr("ladm_hf.scoring.rows.tqdm", bar)
    monkeypatch.setattr("ladm_hf.scoring.rows.THREAD_CHARS", 1)
    monkeypatch.setattr("ladm_hf.scoring.rows.TOKENIZE_CHARS", 1300)
    ahead = LadmScorer(tiny_model(), config=SMALL)
    if fails:
        with pytest.raises(RuntimeError, match="the device"):
            ahead.score_input_ids(given, progress=True)
    else:
        assert repr(ahead.score_input_ids(given, progress=True)) == repr(expected)
    assert max(most) == 3
    assert len(bars) == (4 if fails else 5)
    assert all(bar.disable for bar in bars)


@pytest.mark.parametrize("error", [RowError("row 3"), KeyboardInterrupt()])
def test_a_call_that_could_not_be_started_raises_the_same_error(error: BaseException) -> None:
    def start() -> None:
        raise error

    begun = Begun(lambda: 1, start=start).then(lambda found: found + 1)
    for call in (begun.start, begun, begun):
        with pytest.raises(type(error)) as found:
            call()
        assert found.value is error
