"""Signals of the calculator's losses and first layer against their definitions, written out literally."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import SMALL, random_ids, tiny_model, torch_threads
from launches import GEOMETRY, dataset, kill, launch, parquet, rows, scorer, wait_for_chunks
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from ladm_hf import LadmConfig, LadmScorer, score_dataset
from ladm_hf.calculators.calculator import resolve
from ladm_hf.data.run_record import run_facts, run_of
from ladm_hf.data.score_columns import MODEL_SIGNALS, TEXT_SIGNALS
from ladm_hf.errors import CalculatorError, ConfigError, ResumeError
from ladm_hf.integrations.evaluate import Ladm
from ladm_hf.ops import distant
from ladm_hf.ops.distant import distant_attention
from ladm_hf.scoring import losses
from ladm_hf.scoring.engine import Engine
from ladm_hf.scoring.losses import short_windows

NAMES = tuple(MODEL_SIGNALS)
SHORT = 96
LENGTHS = [300, 410, 289, 563]
# What is unusual in the head or the attention of each: logits scaled or capped, experts, learned positions, ...
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": None},
    "qwen3": {},
    "gemma2": {"sliding_window": 64, "final_logit_softcapping": 5.0, "attn_logit_softcapping": 3.0},
    "gemma3_text": {"sliding_window": 64, "num_hidden_layers": 7},
    "gpt_neox": {},
    "olmo2": {},
    "cohere": {"logit_scale": 0.25},
    "granite": {"logits_scaling": 3.0},
    "mixtral": {"num_local_experts": 2, "sliding_window": None},
}


def causal_lm(family: str = "llama", **options: Any) -> PreTrainedModel:
    """A tiny random model with its head, sure enough of itself that some tokens are key tokens."""
    base = tiny_model(family, **FAMILIES.get(family, {}) | options)
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(base.config, dtype=torch.float32).eval()
    model.base_model.load_state_dict(base.state_dict())
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(60.0)
    return model


def literal(model: PreTrainedModel, ids: list[int], short: int = SHORT) -> dict[str, float]:
    """All signals of a document, as the papers and their code define them, one token after another."""
    model.set_attn_implementation("eager")
    with torch.no_grad():
        output = model(input_ids=torch.tensor([ids]), output_attentions=True, use_cache=False)

    def loss(logits: torch.Tensor, token: int) -> float:
        return float(torch.logsumexp(logits.double(), 0) - logits[token].double())

    length, stride = len(ids), short // 4
    long = {n: loss(output.logits[0, n - 1], ids[n]) for n in range(1, length)}
    after_short: dict[int, float] = {}
    for start in range(0, length - short, stride):
        stop = min(start + short + stride, length)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids[start:stop]]), use_cache=False).logits[0]
        for n in range(start + short, stop):
            after_short[n] = loss(logits[n - 1 - start], ids[n])
    assert list(after_short) == list(range(short, length))
    gains = [math.exp(-long[n]) * (after_short[n] - long[n]) for n in after_short]
    keys = [after_short[n] - long[n] > 2 and -long[n] > -2 for n in after_short]
    kinds = getattr(model.config, "layer_types", None) or ["full_attention"]
    attention = output.attentions[kinds.index("full_attention")][0].double().numpy()
    count = 3 * (length // 4)
    mask = np.zeros((length, length))
    mask[length - count :, :count] = np.tril(np.ones((count, count)))
    return {
        "token_loss": float(np.mean(list(long.values()))),
        "context_gain": sum(gains) / length,
        "key_token_share": float(np.mean(keys)),
        "distant_attention": float(np.mean([(head * mask).sum() / length for head in attention])),
        "distant_uniformity": -float(np.mean([(head * mask).var(ddof=1) for head in attention])),
    }


def scored(model: Any, documents: list[list[int]], **options: Any) -> list[dict[str, float]]:
    scorer = LadmScorer(model, **{"config": SMALL, "signals": NAMES, "short_context": SHORT, **options})
    found = scorer.score_input_ids(documents)
    assert all(score.status == "ok" for score in found)
    return [dict(score.signals) for score in found]


@pytest.mark.parametrize("family", FAMILIES)
def test_signals_are_their_definitions(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = causal_lm(family)
    documents = [random_ids(length, length) for length in LENGTHS[:2]]
    # a few positions at once, so that the pieces show
    monkeypatch.setattr(losses, "CPU_LOGITS", 97 * 50)
    found = scored(model, documents)
    for ids, signals in zip(documents, found, strict=True):
        expected = literal(model, ids)
        assert list(signals) == list(NAMES)
        assert signals == pytest.approx(expected, rel=1e-5, abs=1e-5), family
        assert signals["distant_uniformity"] == pytest.approx(expected["distant_uniformity"], rel=1e-4)
    if family == "llama":
        assert any(0 < signals["key_token_share"] < 1 for signals in found)


def test_threads_that_score_at_once_have_the_signals_of_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "CPU_LOGITS", 97 * 50)
    scorer = LadmScorer(causal_lm(), config=SMALL, signals=NAMES, short_context=SHORT)
    documents = [[random_ids(300, n)] for n in range(8)]
    with ThreadPoolExecutor(4) as threads:
        at_once = list(threads.map(scorer.score_input_ids, documents))
    assert at_once == list(map(scorer.score_input_ids, documents))


def test_context_gain_is_the_score_of_longfilter_by_its_equation_6() -> None:
    """Arxiv 2510.25804: contexts of exactly `S` tokens, each token's prediction from a pass of its own."""
    model, ids, short = causal_lm(), random_ids(300, 7), 6

    def probability(start: int, n: int) -> float:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids[start:n]]), use_cache=False).logits[0, -1]
        return float(torch.softmax(logits.double(), 0)[ids[n]])

    # nothing is known of the first token by either context
    terms = [0.0]
    for n in range(1, len(ids)):
        long_p, short_p = probability(0, n), probability(max(0, n - short), n)
        terms.append(long_p * math.log(long_p / short_p))
    (found,) = scored(model, [ids], signals=["context_gain"], short_context=short)
    assert found["context_gain"] == pytest.approx(sum(terms) / len(ids), rel=1e-5)
    assert sum(term != 0 for term in terms) == len(ids) - short - 1


def test_the_score_is_the_same_with_signals_and_without() -> None:
    model = causal_lm()
    documents = [random_ids(length, length) for length in LENGTHS]
    plain = LadmScorer(model, config=SMALL).score_input_ids(documents)
    for signals in (NAMES, ("distant_attention",), ("token_loss",)):
        found = LadmScorer(model, config=SMALL, signals=signals, short_context=SHORT).score_input_ids(documents)
        assert [score.layer_scores for score in found] == [score.layer_scores for score in plain]


def test_batch_mates_order_and_other_signals_change_nothing() -> None:
    model = causal_lm()
    documents = [random_ids(length, length) for length in LENGTHS]
    alone = [scored(model, [ids])[0] for ids in documents]
    together = scored(model, documents, max_batch_tokens=4000)
    for one, other in zip(alone, together, strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    assert scored(model, documents[::-1])[::-1] == alone
    for name in NAMES:
        assert [signals[name] for signals in alone] == [
            found[name] for found in scored(model, documents, signals=[name])
        ]


def test_a_folder_gives_what_its_live_model_gives(tmp_path: Path) -> None:
    model = causal_lm()
    model.save_pretrained(tmp_path)
    documents = [random_ids(400, 1)]
    assert scored(tmp_path, documents) == scored(model, documents)
    tied = causal_lm(tie_word_embeddings=True)
    tied.save_pretrained(tmp_path / "tied")
    assert scored(tmp_path / "tied", documents)[0] == pytest.approx(literal(tied, documents[0]), rel=1e-4)


def test_windows_are_averaged_by_tokens_over_those_that_have_the_signal() -> None:
    model = causal_lm()
    ids = random_ids(1500, 3)
    config = LadmConfig.paper(span_length=16, max_length=600, overflow="windows")
    parts = [ids[:600], ids[600:1200], ids[1200:]]
    pieces = [literal(model, part, 304) for part in parts[:2]]
    last = literal(model, parts[2], 96)
    (found,) = scored(model, [ids], config=config, short_context=304)
    for name in ("token_loss", "distant_attention", "distant_uniformity"):
        mean = np.average([*(piece[name] for piece in pieces), last[name]], weights=[600, 600, 300])
        assert found[name] == pytest.approx(mean, rel=1e-4)
    # the last window is no longer than the short context
    for name in ("context_gain", "key_token_share"):
        assert found[name] == pytest.approx(np.mean([piece[name] for piece in pieces]), rel=1e-4, abs=1e-6)


def test_what_has_no_score_has_no_signals() -> None:
    documents = [random_ids(100), [], None, [500] * 400, "text", random_ids(300)]
    found = LadmScorer(causal_lm(), config=SMALL, signals=NAMES, short_context=SHORT)({"input_ids": documents})
    for name in NAMES:
        values = found[f"ladm_{name}"]
        assert np.isnan(values[:5]).all()
        assert np.isfinite(values[5])
    # a document no longer than the short context has a loss and no gain
    (score,) = LadmScorer(causal_lm(), config=SMALL, signals=NAMES, short_context=300).score_input_ids([documents[5]])
    nan = {name for name, value in score.signals.items() if math.isnan(value)}
    assert (score.status, nan) == ("ok", {"context_gain", "key_token_share"})


@pytest.mark.parametrize(
    ("length", "short", "expected"),
    [
        (20, 8, [(0, 10), (2, 12), (4, 14), (6, 16), (8, 18), (10, 20)]),
        (11, 8, [(0, 10), (2, 11)]),
        (9, 8, [(0, 9)]),
        (8, 8, []),
        (5, 3, [(0, 4), (1, 5)]),
        (3, 1, [(0, 2), (1, 3)]),
    ],
)
def test_every_token_beyond_the_short_context_is_in_one_window(length: int, short: int, expected: list[Any]) -> None:
    assert short_windows(length, short) == expected
    assert [n for start, stop in expected for n in range(start + short, stop)] == list(range(short, length))


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("given", [True, False])
def test_distant_attention_is_its_definition(softcap: float | None, given: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, heads, 70, 16, generator=generator) for heads in (4, 2))
    lengths, expected = [70, 53], []
    logits = 0.4 * q.double() @ k.double().repeat_interleave(2, 1).mT
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    causal = torch.ones(70, 70, dtype=torch.bool).tril()
    lse = logits.masked_fill(~causal, -torch.inf).logsumexp(-1).float() if given else None
    for b, length in enumerate(lengths):
        weights = logits[b, :, :length, :length].masked_fill(~causal[:length, :length], -torch.inf).softmax(-1)
        far = weights * causal[:length, :length].double().tril(-(length - 3 * (length // 4)))
        expected.append([float(far.sum() / 4 / length), -float(far.flatten(1).var(1).mean())])
    for padded in (int, lambda count: -(-count // 16) * 16):
        found = distant_attention(q, k, lengths, 0.4, lse, softcap, padded=padded)
        torch.testing.assert_close(found.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-7)
    assert torch.isnan(distant_attention(q, k, lengths, 0.4, lse, softcap, uniformity=False)[:, 1]).all()


def test_distant_attention_without_a_kernel_that_gives_the_log_sum_exp(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = causal_lm(), random_ids(400, 5)
    expected = scored(model, [ids])
    monkeypatch.setattr(distant, "causal_attention", lambda *arguments: None)
    assert scored(model, [ids])[0] == pytest.approx(expected[0], rel=1e-5)


def test_logits_of_a_document_are_never_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = causal_lm(), random_ids(563, 7)
    expected = scored(model, [ids])
    seen: list[int] = []
    head = model.get_output_embeddings()
    handle = head.register_forward_hook(lambda module, given, logits: seen.append(logits.numel()))
    monkeypatch.setattr(losses, "CPU_LOGITS", 97 * 64)
    assert scored(model, [ids])[0] == pytest.approx(expected[0], rel=1e-5)
    handle.remove()
    assert max(seen) == 97 * 64


def test_a_model_without_a_head_is_named_with_the_signal(tmp_path: Path) -> None:
    base = tiny_model()
    base.save_pretrained(tmp_path)
    with pytest.raises(CalculatorError, match="token_loss, context_gain need a language model head.* 'llama' model"):
        LadmScorer(base, config=SMALL, signals="token_loss,context_gain", short_context=SHORT).score_input_ids(
            [random_ids(300)]
        )
    with pytest.raises(CalculatorError, match=r"^token_loss need a language model head, and .*its files lack"):
        scored(tmp_path, [random_ids(300)], signals="token_loss")
    # the first layer needs no head
    assert scored(tmp_path, [random_ids(300)], signals=["distant_attention"])


def test_an_architecture_without_a_head_is_named_with_the_signal(tmp_path: Path) -> None:
    AutoConfig.for_model("vit").save_pretrained(tmp_path)
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CalculatorError, match="token_loss need a language model head.*its architecture has none"):
        LadmScorer(tmp_path, config=SMALL, signals="token_loss").score_input_ids([random_ids(300)])


def test_a_head_that_is_no_function_of_the_hidden_states_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = causal_lm()
    forward = type(model).forward

    def noisy(self: Any, *arguments: Any, **options: Any) -> Any:
        output = forward(self, *arguments, **options)
        if "input_ids" in options:
            output.logits = output.logits.flip(-1)
        return output

    monkeypatch.setattr(type(model), "forward", noisy)
    with pytest.raises(CalculatorError, match="token_loss need the logits of each hidden state"):
        LadmScorer(model, config=SMALL, signals="token_loss").score_input_ids([random_ids(300)])


def test_the_short_context_is_checked_and_part_of_the_scorer_where_it_counts() -> None:
    model = causal_lm()
    for bad in (0, -3, True, 2.5, "9"):
        with pytest.raises(ConfigError, match="short_context must be a positive number of tokens"):
            LadmScorer(model, config=SMALL, signals="context_gain", short_context=bad)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="short_context=4096 leaves no token .* at max_length=2048"):
        LadmScorer(model, config=SMALL, signals="context_gain").score_input_ids([random_ids(300)])
    identities = [
        LadmScorer(model, config=SMALL, signals=signals, short_context=short).identity
        for signals, short in (("token_loss", 64), ("token_loss", 96), ("context_gain", 64), ("context_gain", 96))
    ]
    assert identities[0] == identities[1]
    assert len(set(identities)) == 3


def same(found: Any, expected: dict[str, Any]) -> None:
    """To the bit: a score or signal does not depend on how it was computed."""
    for name in ("score", *NAMES, *TEXT_SIGNALS):
        np.testing.assert_array_equal(np.asarray(found[f"ladm_{name}"]), expected[f"ladm_{name}"], err_msg=name)


def test_every_way_to_score_gives_the_signals(tmp_path: Path) -> None:
    data = dataset(9)
    options = {"signals": (*NAMES, *TEXT_SIGNALS), "short_context": 64}
    texts = {"text": list(data["text"])}
    expected = scorer(**options)(texts)
    assert list(expected) == [f"ladm_{name}" for name in ("score", "num_tokens", "status", "repetition")] + [
        f"ladm_{name}" for name in (*TEXT_SIGNALS, *NAMES)
    ]
    ok = np.array(expected["ladm_status"]) == "ok"
    assert ok.sum() == 6
    for name in NAMES:
        assert np.isfinite(expected[f"ladm_{name}"]).tolist() == ok.tolist()
    same(data.map(scorer(**options), batched=True, batch_size=4), expected)
    same(data.map(scorer(**options), batched=True, num_proc=2, load_from_cache_file=False), expected)
    for _ in range(2):
        same(scorer(**options, journal=tmp_path / "journal")(texts), expected)
    run = score_dataset(data, tmp_path / "run", scorer(**options), num_chunks=4, progress=False)
    same(run, expected)
    assert run.column_names == [*data.column_names, *expected]
    metric = Ladm(cache_dir=str(tmp_path / "metric"))
    found = metric.compute(predictions=texts["text"], config=GEOMETRY, **options)
    for name in NAMES:
        np.testing.assert_array_equal(found[f"ladm_{name}"], expected[f"ladm_{name}"])


def test_a_journal_gives_no_row_without_its_signals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"text": list(dataset(4)["text"])}
    scorer(journal=tmp_path)(texts)
    wanted = scorer(signals="token_loss,key_token_share", short_context=64)
    expected = wanted(texts)
    kept = scorer(signals=wanted.signals, short_context=64, journal=tmp_path)(texts)
    monkeypatch.setattr(Engine, "measure", lambda *arguments: pytest.fail("every document is in the journal"))
    again = scorer(signals=wanted.signals, short_context=64, journal=tmp_path)(texts)
    for name in wanted.features:
        if name != "ladm_status":
            np.testing.assert_array_equal(kept[name], expected[name])
            np.testing.assert_array_equal(again[name], expected[name])
    for other in ({"short_context": 32}, {"signals": "token_loss"}):
        options = {"signals": wanted.signals, "short_context": 64, "journal": tmp_path, **other}
        with pytest.raises(pytest.fail.Exception):
            scorer(**options)(texts)


def test_a_run_with_another_short_context_is_refused(tmp_path: Path) -> None:
    options = {"signals": "context_gain,compression", "short_context": 64}
    score_dataset(dataset(4), tmp_path, scorer(**options), progress=False)
    assert run_facts(run_of(tmp_path))["config"]["short_context"] == 64
    with pytest.raises(ResumeError, match="short_context: 64 there, 32 now"):
        score_dataset(dataset(4), tmp_path, scorer(**options | {"short_context": 32}), progress=False)
    message = "signals: 'compression,context_gain' there, 'compression' now\n  short_context: 64 there, None now"
    with pytest.raises(ResumeError, match=message):
        score_dataset(dataset(4), tmp_path, scorer(signals="compression"), progress=False)


def test_two_ranks_killed_and_resumed_give_the_signals_of_one(tmp_path: Path) -> None:
    signals = ("compression", *NAMES)
    options = [
        "--span-length",
        "16",
        "--max-length",
        "2048",
        "--add-signals",
        ",".join(signals),
        "--short-context",
        "64",
    ]
    source, output = parquet(tmp_path / "in.parquet", 18, words=600), tmp_path / "out"
    arguments = ["score", str(source), str(output), "--chunks", "12", *options]
    first = launch(arguments, 2)
    wait_for_chunks(first, output, 2)
    kill(first)
    second = launch(arguments, 2)
    said, _ = second.communicate(timeout=200)
    assert second.returncode == 0, said
    assert f"--add-signals {','.join(signals)} " in (output / "run.json").read_text()
    config = replace(LadmScorer().config, span_length=16, max_length=2048)
    expected = LadmScorer(config=config, signals=signals, short_context=64)({"text": list(dataset(18, 600)["text"])})
    found = pq.read_table(output / "data").sort_by("id").to_pydict()
    order = np.argsort([row["id"] for row in rows(18, 600)])
    for name in ("score", *signals):
        np.testing.assert_array_equal(np.array(found[f"ladm_{name}"]), expected[f"ladm_{name}"][order], err_msg=name)


def test_the_number_of_threads_changes_no_loss() -> None:
    head = losses.LanguageModelHead(resolve(None).load_model("float32", "cpu", "token_loss"), "token_loss")
    torch.manual_seed(0)
    hidden, ids = torch.randn(40, head.model.config.hidden_size), torch.tensor(random_ids(40))
    found = []
    for count in (1, 2, 3):
        with torch_threads(count), torch.inference_mode():
            found.append(torch.cat([head.losses(hidden[:length], ids[:length]) for length in range(2, 41)]))
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_a_loss_that_is_not_finite_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    head = losses.LanguageModelHead.losses
    monkeypatch.setattr(losses.LanguageModelHead, "losses", lambda *arguments: head(*arguments).mul(torch.nan))
    with pytest.warns(UserWarning, match="token_loss of a document is not finite in float32"):
        (found,) = LadmScorer(causal_lm(), config=SMALL, signals="token_loss").score_input_ids([random_ids(300)])
    assert found.status == "ok"
    assert math.isnan(found.signals["token_loss"])


def test_the_losses_of_a_calculator_in_bfloat16_are_near_those_in_float32() -> None:
    text = "The ship left the harbour at dawn, and the captain wrote of it. " * 200
    scores = []
    for dtype in ("float32", "bfloat16"):
        scorer = LadmScorer(signals=("token_loss", "context_gain"), short_context=512, dtype=dtype, device="cpu")
        scores.append(scorer.score_texts([text])[0])
    for name in ("token_loss", "context_gain"):
        assert scores[1].signals[name] == pytest.approx(scores[0].signals[name], rel=0.05, abs=0.01)
    plain = LadmScorer(dtype="bfloat16", device="cpu").score_texts([text])[0]
    assert plain.score == scores[1].score
