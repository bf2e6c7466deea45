"""What scoring on rented machines is expected to take: speeds as measured, work left, hours and price."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
from conftest import ROOT, run_record

from ladm_hf.calculators.calculator import outline
from ladm_hf.errors import ConfigError
from ladm_hf.runs.flavors import Flavor, Pass, Quote, Work, find_flavor, list_flavors, money, work_left
from ladm_hf.runs.job_spec import timeout_seconds
from ladm_hf.runs.speeds import (
    CPU_CORES,
    MEASURED,
    NANO_PARAMETERS,
    SIGNAL_COSTS,
    TEXT_CORES,
    TEXT_TOKENS,
    Speed,
    expected_speed,
)

RESULTS = ROOT / "benchmarks" / "results"
TINYLLAMA = 1_100_048_384


def result(name: str) -> dict:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def test_the_table_of_speeds_is_what_was_measured() -> None:
    h200, h100, cpu = result("h200.json"), result("h100.json"), result("cpu.json")
    assert h200["environment"]["device"] == "NVIDIA H200"
    assert h100["environment"]["device"].startswith("NVIDIA H100")
    assert cpu["cores"] == CPU_CORES
    on_cpu = {row["tokens"]: row["seconds"] for row in cpu["rows"] if row["variant"] == "scored, default"}
    expected = [
        {int(tokens): seconds for tokens, seconds in h200["seconds_in_batches"]["engine"].items()},
        {8192: 1 / h100["nano"]["calibrated"]["documents_per_second"]},
        on_cpu,
    ]
    assert [each.file for each in MEASURED] == ["h200.json", "h100.json", "cpu.json"]
    for measured, seconds in zip(MEASURED, expected, strict=True):
        assert measured.seconds == pytest.approx(seconds, rel=1e-3)
    # two bytes a weight in float16
    assert 2 * MEASURED[0].parameters == h200["memory"]["weights_bytes"]
    assert outline("ladm-nano").parameters == NANO_PARAMETERS


def test_costs_of_signals_are_what_was_measured() -> None:
    ratios = {row["variant"]: row["ratio"] for row in result("signals-cpu.json")["rows"]}
    assert SIGNAL_COSTS["token_loss"] == ratios["with token_loss"]
    assert SIGNAL_COSTS["context_gain"] == ratios["with context_gain and key_token_share"]
    assert SIGNAL_COSTS["distant_attention"] == ratios["with distant_attention"]
    assert SIGNAL_COSTS["distant_uniformity"] == ratios["with distant_attention and distant_uniformity"]


def test_a_speed_between_measured_lengths_lies_between_theirs() -> None:
    def at(length: float) -> float:
        found = expected_speed("H200", 23, TINYLLAMA, length)
        assert found is not None
        return found.tokens_per_second

    assert at(32768) == pytest.approx(32768 / 0.29025)
    assert at(100) == at(4096)
    assert at(10**7) == at(131072)
    assert at(8192) > at(12000) > at(16384)


@pytest.mark.parametrize(
    ("gpu", "parameters", "signals", "rough"),
    [
        ("H100", NANO_PARAMETERS, (), ()),
        ("NVIDIA H200", TINYLLAMA, ("compression",), ()),
        ("L4", NANO_PARAMETERS, (), ("peak teraflops",)),
        ("H200", 7 * 10**9, (), ("number of parameters",)),
        ("A100", 10**8, ("token_loss",), ("number of parameters", "peak teraflops", "cost of the signals")),
        ("", NANO_PARAMETERS, (), ("number of cores",)),
    ],
)
def test_what_was_not_measured_is_called_a_rough_estimate(gpu, parameters, signals, rough) -> None:
    found = expected_speed(gpu, 2, parameters, 8192, signals)
    assert found is not None
    assert ("rough estimate" in found.source) == bool(rough)
    assert all(reason in found.source for reason in rough)
    assert "benchmarks/results/" in found.source


def test_a_larger_model_a_slower_gpu_and_more_signals_take_longer() -> None:
    def rate(*arguments) -> float:
        found = expected_speed(*arguments)
        assert found is not None
        return found.tokens_per_second

    base = rate("H200", 8, TINYLLAMA, 8192)
    assert rate("H200", 8, 7 * TINYLLAMA, 8192) == pytest.approx(base / 7, rel=0.07)
    assert rate("L4", 8, TINYLLAMA, 8192) == pytest.approx(base * 121 / 989)
    assert rate("H200", 8, TINYLLAMA, 8192, ["token_loss", "context_gain"]) == pytest.approx(base / 4.308)
    assert rate("", 8, NANO_PARAMETERS, 8192) == pytest.approx(4 * rate("", 2, NANO_PARAMETERS, 8192))
    assert expected_speed("Z9000", 8, TINYLLAMA, 8192) is None


def test_token_ids_of_texts_limit_a_small_model_on_a_gpu_but_no_large_one() -> None:
    run = result("text_to_score-gpu.json")["ladm-nano"]
    text = run["device"]["from_text"]
    rate = text["documents_per_second"] * run["tokens"] / run["documents"]
    assert pytest.approx(rate, rel=1e-3) == TEXT_TOKENS
    assert pytest.approx(text["busy_cores"], rel=1e-2) == TEXT_CORES
    for cores, expected in ((16, TEXT_TOKENS), (3, TEXT_TOKENS * (3 / TEXT_CORES))):
        found = expected_speed("H100", cores, NANO_PARAMETERS, 8192, from_text=True)
        assert found is not None
        assert found.tokens_per_second == expected
        assert "text_to_score-gpu.json" in found.source
    for arguments in (("H200", 8, TINYLLAMA), ("", 2, NANO_PARAMETERS)):
        assert expected_speed(*arguments, from_text=True) == expected_speed(*arguments)


def test_work_left_counts_unfinished_chunks_at_the_speed_of_finished_ones() -> None:
    run = run_record()
    left = work_left(run, {0: {"tokens": 600, "seconds": 3.0}})
    # chunk 1: rows 2 to 6 at a cost of 8, of which one a row is not text
    assert (left.chunks, left.documents, left.tokens) == (1, 4, 4.0)
    assert left.speed == Speed(200.0, "that of 1 finished chunk")
    assert work_left(run, {}).speed is None
    assert work_left(run, {0: {"tokens": 0, "seconds": 0.0}}).speed is None
    assert str(work_left(run, {0: {"tokens": 1, "seconds": 1.0}})) == "4 documents, about 4 tokens in 1 chunk left"


def test_hours_and_price_are_of_all_gpus_of_all_jobs() -> None:
    flavor = Flavor("l4x4", "4x L4", 3.80, "L4", gpus=4)
    quote = Quote(flavor, 2, [Pass(Work(8e9), Speed(1e5, "measured"))])
    assert quote.seconds == 8e9 / 1e5 / 8
    assert quote.price == pytest.approx(math.ceil(10_000 / 60) / 60 * 2 * 3.80)
    assert "22.2 GPU hours, 2 h 47 min by 2 jobs, $21.15;" in str(quote)
    # one more job makes it quicker, not dearer, but for the last minute of each
    assert Quote(flavor, 3, quote.passes).price == pytest.approx(quote.price, rel=0.01)
    for unknown in (
        Quote(flavor, 2, [Pass(None, Speed(1e5, ""))]),
        Quote(flavor, 2, [*quote.passes, Pass(Work(1), None)]),
    ):
        assert (unknown.seconds, unknown.price) == (None, None)
        assert "expected: not known" in str(unknown)
    assert "the Hub names no price for" in str(Quote(Flavor("x", "y", None), 1, [Pass(None, None)]))


def test_flavors_are_read_from_the_price_list_whatever_its_unit() -> None:
    def hardware(name: str, label: str, cost: float, accelerator: object = None) -> SimpleNamespace:
        return SimpleNamespace(
            name=name, cpu="8 vCPU", ram="32 GB", accelerator=accelerator, unit_cost_usd=cost, unit_label=label
        )

    tpu = SimpleNamespace(type="tpu", model="v5e", quantity="1", vram="16 GB", manufacturer="Google")
    listed = [
        hardware("a", "minute", 0.5), hardware("b", "hour", 30.0), hardware("c", "fortnight", 1.0),
        hardware("d", "hour", 1.0, tpu),
    ]  # fmt: skip
    found = list_flavors(SimpleNamespace(list_jobs_hardware=lambda: listed))
    assert [(each.name, each.price, each.cores) for each in found] == [("a", 30.0, 8), ("b", 30.0, 8), ("c", None, 8)]
    assert find_flavor("b", found) is found[1]
    with pytest.raises(ConfigError, match=r"no flavor 'x'; it has a \(\$30.00/h\), b \(\$30.00/h\), c$"):
        find_flavor("x", found)


def test_timeouts_and_money_for_people() -> None:
    assert [timeout_seconds(text) for text in ("300", "90s", "5m", "1.5h", "2d")] == [300, 90, 300, 5400, 172_800]
    for text in ("", "soon", "-1h", "0", "1w", "1h30m"):
        with pytest.raises(ConfigError, match="--timeout"):
            timeout_seconds(text)
    assert [money(each) for each in (0.042, 12.5, 1250.4)] == ["$0.04", "$12.50", "$1,250"]


def test_hours_of_two_passes_are_those_of_both() -> None:
    flavor, whole = Flavor("h200", "1x H200", 5.0, "H200", gpus=1), Work(1e9, 100_000)
    first, second = Pass(whole, Speed(1e6, "a"), "first pass"), Pass(whole.part(0.2), Speed(1e5, "b"), "second pass")
    quote = Quote(flavor, 2, [first, second])
    assert quote.seconds == (1e9 / 1e6 + 0.2e9 / 1e5) / 2
    assert "work of the first pass: 100,000 documents, about 1.0B tokens" in str(quote)
    assert "work of the second pass: 20,000 documents, about 200.0M tokens" in str(quote)
    assert "speed of the second pass: 100.0k tokens/s a GPU, b" in str(quote)


@pytest.mark.parametrize(
    ("gpu", "refused"), [("", True), ("Nvidia T4", True), ("A100", True), ("L4", False), ("", None)]
)
def test_a_flavor_without_float8_is_refused_before_it_is_paid_for(gpu: str, refused: bool | None) -> None:
    flavor = Flavor("one", "hardware", 1.0, gpu)
    if refused:
        with pytest.raises(ConfigError, match=r"--job one has .*: name another flavor, or --dtype bfloat16"):
            flavor.check_dtype("float8")
    else:
        flavor.check_dtype("bfloat16" if refused is None else "float8")
