"""The training-effect benchmark at toy size: the whole of it from the commands in the documents, and its parts."""

from __future__ import annotations

import json
import re
import shlex
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import ROOT
from filelock import FileLock
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

pytest.importorskip("trl", reason="needs ladm-hf[test]")

from benchmarks.training_effect import analysis, makeup, scores, training
from benchmarks.training_effect.__main__ import main
from benchmarks.training_effect.file_types import file_type, is_text
from benchmarks.training_effect.packing import packed
from benchmarks.training_effect.probes import CITIES, NAMES, WORDS
from benchmarks.training_effect.report import markdown
from benchmarks.training_effect.store import Stream, Windows, pack, unpack
from ladm_hf.training.model import build_model
from ladm_hf.training.recipe import Architecture, Recipe
from ladm_hf.training.tokenizer import train_tokenizer

LETTERS = [f"{a}{b}" for a in "bcdfgklmnprst" for b in "aeiou"]
# so that the probes' sentences are few tokens
FACTS = [f"The password of {name} is {word}. {name} lives in {city}. {name} lives with {name}."
         for name in NAMES for word, city in zip(WORDS, CITIES, strict=False)]  # fmt: skip


def sentences(rng: np.random.Generator, words: int) -> str:
    return " ".join(f"{a}{b}" for a, b in rng.choice(LETTERS, (words, 2)))


@pytest.fixture(scope="module")
def calculator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calculator")
    rng = np.random.default_rng(0)
    tokenizer = train_tokenizer([sentences(rng, 4000), *FACTS], vocab_size=600)
    shape = Architecture(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                         num_attention_heads=2, num_key_value_heads=1)  # fmt: skip
    build_model(None, shape, Recipe(focus_layers=())).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = {"heads": [[1, 0]], "ablation": "no_std", "span_length": 16, "d_afs": 1, "d_cds": 1, "max_length": 512}
    (folder / "ladm_config.json").write_text(json.dumps(config))
    return folder


def toy_plan(calculator: Path) -> dict[str, Any]:
    plan = yaml.safe_load((ROOT / "benchmarks/training_effect/plan.yaml").read_text())
    plan["calculator"] = str(calculator)
    plan["pool"]["max_tokens"] = 512
    plan["base"] |= {"length": 64, "unique_tokens": 6000, "tokens": 6000, "batch_tokens": 512}
    plan["model"] |= {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
                      "num_key_value_heads": 2, "head_dim": 16}  # fmt: skip
    plan["extension"] |= {"seeds": [0, 1], "length": 256, "windows": 6, "short_windows": 2, "batch_tokens": 512}
    plan["selection"]["budget_tokens"] = 8 * 512
    plan["long_minus_short"]["max_tokens"] = 256
    plan["evaluation"] |= {"length": 256, "targets": [128, 256], "near": 32, "per_domain": 3, "least_per_domain": 2,
                           "short_documents": 5, "short_length": 64, "probes": 3, "probe_context": 192}  # fmt: skip
    plan["statistics"]["rounds"] = 200
    return plan


def write_documents(path: Path, prefix: str, count: int, seed: int) -> Path:
    rng, rows = np.random.default_rng(seed), []
    for i in range(count):
        short = (prefix == "corpus" and i % 2) or (prefix == "held" and i % 4 == 3)
        text = sentences(rng, 20 if short else int(rng.integers(300, 700)))
        name = "json" if i % 4 == 1 else "md"
        rows.append({"id": f"{prefix}/s{i % 6}:{i}.{name}", "domain": f"d{i % 2}", "source": f"{prefix}/s{i % 6}",
                     "kind": "short" if short else "long", "text": text, "n_chars": len(text)})  # fmt: skip
    pd.DataFrame(rows).to_parquet(path)
    return path


def commands(heading: str) -> list[list[str]]:
    """The commands of a section of the documents, word by word."""
    section = (ROOT / "docs" / "evidence.md").read_text().split(f"## {heading}")[1].split("\n## ")[0]
    return [shlex.split(line) for line in re.findall(r"^python -m benchmarks\.training_effect (.*)$", section, re.M)]


def run_commands(root: Path, heading: str, plan: dict[str, Any], calculator: Path) -> Path:
    """Runs every command of a section with toy data."""
    file = root / "plan.yaml"
    file.write_text(yaml.safe_dump(plan, sort_keys=False))
    known = {"$POOL": write_documents(root / "pool.parquet", "pool", 40, 1), "$EARLIER": calculator,
             "$CORPUS": write_documents(root / "corpus.parquet", "corpus", 60, 2),
             "$HELD_OUT": write_documents(root / "held.parquet", "held", 24, 3)}  # fmt: skip
    for words in commands(heading):
        extra = {"prepare": ["--plan", str(file)], "analyse": ["--output", str(root / "results")]}.get(words[0], [])
        main([*(str(known.get(word, word)) for word in words), "--work", str(root / "work"), *extra])
    return root


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, calculator: Path) -> Path:
    """The working folder after every command of the documents."""
    return run_commands(tmp_path_factory.mktemp("study"), "Repeat it", toy_plan(calculator), calculator)


def test_every_stage_runs_from_the_commands_of_the_documents(finished: Path) -> None:
    plan = yaml.safe_load((finished / "plan.yaml").read_text())
    result = json.loads((finished / "results/training_effect.json").read_text())
    assert {len(done) for done in result["runs"].values()} == {4}
    assert set(result["runs"]) == set(plan["arms"]) == set(result["selections"])
    assert set(result["measures"]) == {"loss", "gain", "probes", "short"}
    assert [[t["arm"], t["against"]] for t in result["measures"]["loss"]["tests"]] == plan["statistics"]["tested"]
    assert result["measures"]["loss"]["arms"]["oracle"]["share_of_gap"] == 1
    assert result["stage_0"]["spread_of_seeds"] > 0
    assert (finished / "results/training_effect.png").stat().st_size > 5000
    assert "difference to random" in markdown(result)


def test_all_arms_have_the_same_domains_and_the_oracle_has_no_table_where_there_is_text(finished: Path) -> None:
    chosen = json.loads((finished / "results/training_effect.json").read_text())["selections"]
    shares = [entry["domains"]["d0"] for entry in chosen.values()]
    assert max(shares) - min(shares) < 0.15
    assert chosen["oracle"]["not_text"] == 0
    assert chosen["junk"]["not_text"] > chosen["random"]["not_text"]


def test_the_manifest_names_the_documents_and_holds_no_text(finished: Path) -> None:
    manifest = pd.read_csv(finished / "results/training_effect_manifest.csv", dtype=str, keep_default_na=False)
    rows = json.loads((finished / "work/selections/random-1.json").read_text())["rows"]
    assert manifest.index[manifest["chosen by random"].str.contains("1")].tolist() == rows
    assert manifest.map(len).to_numpy().max() < 60


def test_a_stage_started_again_changes_nothing(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {path: path.stat().st_mtime_ns for path in (finished / "work").rglob("*.json")}
    for stage in (["score", "--earlier", "none"], ["select"], ["base"], ["extend"]):
        main([*stage, "--work", str(finished / "work")])
    assert {path: path.stat().st_mtime_ns for path in (finished / "work").rglob("*.json")} == files


def test_a_run_that_was_lost_comes_out_the_same(finished: Path) -> None:
    path = finished / "work/runs/LADM-1-0.json"
    before = json.loads(path.read_text())
    path.unlink()
    main(["extend", "--arms", "LADM", "--work", str(finished / "work")])
    after = json.loads(path.read_text())
    assert after["loss"] == pytest.approx(before["loss"], abs=1e-4)
    path.write_text(json.dumps(before))


def test_no_run_is_started_when_the_time_is_over(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = finished / "work/runs/random-0-0.json"
    kept = path.rename(path.with_suffix(".kept"))
    main(["extend", "--max-minutes", "-1", "--work", str(finished / "work")])
    assert not path.exists()
    kept.rename(path)
    assert "out of time" in capsys.readouterr().out


def test_processes_share_the_runs_that_nobody_has_in_hand(finished: Path) -> None:
    runs = finished / "work/runs"
    kept = [path.rename(path.with_suffix(".kept")) for path in (runs / "random-0-0.json", runs / "junk-1-1.json")]
    with FileLock(runs / ".random-0-0.json.lock"):
        main(["extend", "--work", str(finished / "work")])
    assert not (runs / "random-0-0.json").exists()
    assert (runs / "junk-1-1.json").exists()
    for path in kept:
        path.rename(path.with_suffix(".json"))


def test_runs_wait_for_their_base_and_say_so(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, trained = finished / "work/runs/LADM-1-1.json", finished / "work/bases/1/trained.json"
    kept = [path.rename(path.with_suffix(".kept")) for path in (run, trained)]
    main(["extend", "--work", str(finished / "work")])
    assert not run.exists()
    said = capsys.readouterr().out
    assert re.search(r"^1 of \d+ runs were passed over for want of bases/1/trained.json$", said, re.MULTILINE)
    for path in kept:
        path.rename(path.with_suffix(".json"))


def test_another_plan_needs_another_folder(finished: Path, tmp_path: Path, calculator: Path) -> None:
    plan = toy_plan(calculator) | {"arms": {}}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    with pytest.raises(SystemExit, match="follows another plan"):
        main(["prepare", "--plan", str(tmp_path / "plan.yaml"), "--pool", "a", "--corpus", "b", "--held-out", "c",
              "--work", str(finished / "work")])  # fmt: skip


def test_pieces_come_back_as_they_were(finished: Path, tmp_path: Path) -> None:
    work = finished / "work"
    pack(work, ["tokens/pool.u16", "plan.json"], tmp_path / "pieces", 1 << 12)
    assert len(list((tmp_path / "pieces").iterdir())) > 2
    unpack(tmp_path / "pieces", tmp_path / "work")
    for name in ("tokens/pool.u16", "plan.json"):
        assert (tmp_path / "work" / name).read_bytes() == (work / name).read_bytes()


def test_packing_loses_and_doubles_no_token(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    stream = Stream.write(tmp_path / "s", [rng.integers(1, 9, n).tolist() for n in (5, 70, 33, 1, 64, 20)])
    windows = packed(stream, np.array([0, 1, 2, 4]), 32)
    places = np.concatenate([np.arange(s, s + n) for s, n in zip(windows.starts, windows.lengths, strict=True)])
    wanted = np.concatenate([np.arange(stream.offsets[row], stream.offsets[row + 1]) for row in (0, 1, 2, 4)])
    assert sorted(places.tolist()) == wanted.tolist()
    sizes = [sum(map(len, windows.stretches(row, stream))) for row in range(len(windows))]
    assert max(sizes) <= 32
    # 172 tokens need six windows
    assert len(windows) == 6


def test_training_does_not_see_the_neighbour_in_a_window(finished: Path) -> None:
    plan = json.loads((finished / "work/plan.json").read_text())
    config = training.llama_config(plan, finished / "work", 10_000.0, 256)
    torch.manual_seed(0)
    model = training.LlamaForCausalLM(config).eval()
    model.set_attn_implementation("sdpa")
    rng = np.random.default_rng(0)
    mine, one, other = (rng.integers(1, 500, 40).astype(np.uint16) for _ in range(3))
    seen = []
    for neighbour in (one, other):
        batch = training.collate([[{"input_ids": neighbour}, {"input_ids": mine}]])
        assert batch["labels"][0, 40] == -100
        seen.append(model(**{name: batch[name] for name in ("input_ids", "position_ids")}).logits[0, 40:])
    torch.testing.assert_close(seen[0], seen[1])


def test_attention_document_by_document_is_that_of_each_document_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", None)
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, 12, 16, dtype=torch.bfloat16)
    bounds = torch.tensor([0, 5, 12], dtype=torch.int32)
    output, _ = training.attention_within_documents(
        torch.nn.Module(), q, k, v, None, cu_seq_lens_q=bounds, max_length_q=7
    )  # fmt: skip
    scores = (q.float() @ k.float().transpose(2, 3)) / 4
    documents = torch.tensor([0] * 5 + [1] * 7)
    seen = (documents[:, None] == documents) & torch.ones(12, 12).tril().bool()
    wanted = scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v.float()
    torch.testing.assert_close(output.float(), wanted.transpose(1, 2), atol=0.03, rtol=0.03)


def test_file_types_come_from_the_file_that_an_id_names() -> None:
    assert file_type("a/b:lib/x#lib/x/algebra.ex") == "ex"
    assert file_type("a/b:doc/orm/backref.rst#joined9") == "rst"
    assert file_type("a/b:C#/notes.md#joined4") == "md"
    assert file_type("a/b:src/epub/text#part1") == ""
    assert is_text("a/b:data/x.xml#ch1-2")
    assert not is_text("a/b:data/x.geojson#part0")


def test_holm_corrects_as_by_hand() -> None:
    assert analysis.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert analysis.holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])


def test_a_difference_that_all_runs_and_documents_share_is_found_and_none_is_not() -> None:
    rng = np.random.default_rng(0)
    documents, runs = rng.normal(4, 0.5, 30), rng.normal(0, 0.003, (10, 1))
    noise = {arm: rng.normal(0, 0.003, (10, 30)) for arm in ("random", "same", "better", "oracle")}
    loss = {arm: documents + runs + noise[arm] for arm in noise}
    loss["better"] -= 0.02
    loss["oracle"] -= 0.04
    done = [(base, seed) for base in range(2) for seed in range(5)]
    found = {"runs": dict.fromkeys(loss, done), "domains": {"loss": ["a"] * 10 + ["b"] * 20}, "loss": loss}
    plan = {"metrics": {"primary": "loss"},
            "statistics": {"against": "random", "rounds": 2000, "confidence": 0.95,
                           "tested": [["better", "random"], ["same", "random"]]}}  # fmt: skip
    result = analysis.compared(plan, found, "loss")
    better, same = result["tests"]
    assert better["p_holm"] < 0.01
    assert better["interval"][0] < -0.02 < better["interval"][1] < 0
    assert same["p_holm"] > 0.05
    assert result["arms"]["better"]["share_of_gap"] == pytest.approx(0.5, abs=0.05)


def test_of_arms_on_the_same_texts_the_spread_of_their_difference_counts() -> None:
    rng = np.random.default_rng(0)
    texts, noise = rng.normal(0, 0.1, (5, 1)), rng.normal(0, 0.001, (5, 8))
    loss = {"oracle": 4 + texts + noise, "junk": 4.02 + texts - noise}
    done = [(0, seed) for seed in range(5)]
    found = {"runs": dict.fromkeys(loss, done), "domains": {"loss": ["a"] * 8}, "loss": loss}
    plan = {"stage_0": {"arms": ["oracle", "junk"], "at_least": 3.0}, "statistics": {"against": "random"}}
    assert not analysis.instrument(plan, found)["passed"]
    plan["stage_0"]["paired"] = True
    result = analysis.instrument(plan, found)
    assert result["passed"]
    assert result["difference"] == pytest.approx(0.02, abs=0.001)


def test_the_bootstrap_of_a_mean_has_the_spread_of_theory() -> None:
    values = np.random.default_rng(0).normal(0, 1, (10, 200))
    found = {"bases": np.repeat([0, 1], 5), "domains": {"loss": ["a"] * 200}, "loss": {"one": values}}
    sample = analysis.means(found, "loss", 4000)["one"]
    by_document, by_run = values.mean(0).std() / 200**0.5, values.mean(1).std() / 10**0.5
    assert sample.std() == pytest.approx((by_document**2 + by_run**2) ** 0.5, rel=0.3)
    assert sample.mean() == pytest.approx(values.mean(), abs=0.01)


def test_arms_are_compared_over_the_runs_that_both_have() -> None:
    rng = np.random.default_rng(0)
    runs = {"random": [(0, 0), (0, 1), (1, 0)], "better": [(1, 0), (0, 1), (1, 1)], "other": [(0, 0), (0, 1), (1, 1)]}
    # a run is far from another, so that one taken for another would show
    level = {(0, 0): 1.0, (0, 1): 2.0, (1, 0): 4.0, (1, 1): 8.0}
    documents = rng.normal(0, 0.1, 6)
    gain = {"random": 0.0, "better": -0.5, "other": 0.25}
    loss = {arm: np.array([level[run] + gain[arm] + documents for run in done]) for arm, done in runs.items()}
    found = {"runs": runs, "domains": {"loss": ["a"] * 6}, "sources": {"loss": list("uuvvww")}, "loss": loss}
    plan = {"metrics": {"primary": "loss"}, "statistics": {"against": "random", "rounds": 100, "confidence": 0.95,
                                                           "tested": [["better", "other"]]}}  # fmt: skip
    result = analysis.compared(plan, found, "loss")
    assert result["arms"]["better"]["runs"] == 2
    assert result["arms"]["better"]["by_run"] == pytest.approx([-0.5, -0.5])
    assert result["arms"]["other"]["difference"] == pytest.approx(0.25)
    assert result["runs_of_all_arms"] == 1
    assert result["arms"]["random"]["mean"] == pytest.approx(2 + documents.mean(), abs=1e-4)
    assert [test["runs"] for test in result["tests"]] == [2]
    assert result["tests"][0]["difference"] == pytest.approx(-0.75)


def test_documents_of_a_source_are_drawn_together() -> None:
    weights = analysis.document_weights(["a"] * 4 + ["b"] * 2, 50, ["x", "x", "y", "z", "u", "u"])
    np.testing.assert_allclose(weights.sum(1), 1)
    np.testing.assert_allclose(weights[:, 0], weights[:, 1])
    np.testing.assert_allclose(weights[:, 4:], 0.25)
    assert len(np.unique(weights[:, 2])) > 2


def test_the_make_up_of_a_selection_counts_tokens() -> None:
    part = pd.DataFrame({"id": ["a/b:src/x.py", "a/b:tests/y.py", "c/d:z.csv", "c/d:latest.md"],
                         "domain": ["code", "code", "code", "prose"], "source": ["a/b", "a/b", "c/d", "c/d"],
                         "type": ["py", "py", "csv", "md"], "text": [True, True, False, True],
                         "ladm_num_tokens": [100, 200, 100, 100], "ladm_repetition": [0.0, 0.5, 0.0, 0.0],
                         "gzip_ratio": [2.0] * 4})  # fmt: skip
    found = makeup.make_up(part)
    assert found["not_text"] == 0.2
    assert found["not_text_by_domain"] == {"code": 0.25, "prose": 0.0}
    assert found["not_text_types"] == {"csv": 1.0}
    assert found["largest_domain"]["name"] == "code"
    assert found["largest_domain"]["tests"] == 0.5
    assert found["largest_domain"]["file_types"]["py"] == 0.75
    assert makeup.effective_number(pd.Series([0.25] * 4)) == 4
    same = np.array([5.0, 3.0, 0.0])
    assert makeup.cross_entropy(same, same) < makeup.cross_entropy(np.array([0.0, 3.0, 5.0]), same)


def test_the_trainer_keeps_documents_apart(finished: Path) -> None:
    """transformers sees the boundaries only without a cache and without an attention mask."""
    plan = json.loads((finished / "work/plan.json").read_text())
    torch.manual_seed(0)
    model = training.LlamaForCausalLM(training.llama_config(plan, finished / "work", 10_000.0, 256))
    work, seen = finished / "work", []
    data = training.PackedWindows([(Stream.read(work / "tokens/pool"), Windows.load(work / "windows/LADM-0.npz"))])
    hook = model.model.register_forward_pre_hook(lambda _, args, given: seen.append(given), with_kwargs=True)
    training.train(model, data, plan["extension"] | {"warmup": 0.1}, 0, 0.3)
    hook.remove()
    assert seen
    for given in seen:
        assert given.get("attention_mask") is None
        assert not given.get("use_cache")
        assert not model.config.use_cache
    given = seen[0]
    starts = [*np.flatnonzero(given["position_ids"][0] == 0).tolist(), given["input_ids"].shape[1]]
    assert len(starts) > 2
    model.eval()
    together = model(input_ids=given["input_ids"], position_ids=given["position_ids"]).logits[0]
    for first, last in pairwise(starts):
        alone = model(input_ids=given["input_ids"][:, first:last]).logits[0]
        torch.testing.assert_close(together[first:last], alone, atol=1e-4, rtol=1e-4)


def test_a_step_in_parts_is_the_step_at_once(finished: Path) -> None:
    plan = json.loads((finished / "work/plan.json").read_text())
    work, weights = finished / "work", []
    data = training.PackedWindows([(Stream.read(work / "tokens/pool"), Windows.load(work / "windows/LADM-0.npz"))])
    for own in ({}, {"micro_batch_tokens": 256}):
        torch.manual_seed(0)
        model = training.LlamaForCausalLM(training.llama_config(plan, work, 10_000.0, 256))
        before = model.lm_head.weight.detach().clone()
        training.train(model, data, plan["extension"] | own, 0, 1)
        weights.append(model.lm_head.weight.detach() - before)
    assert weights[0].abs().max() > 1e-3
    torch.testing.assert_close(weights[0], weights[1], atol=1e-4, rtol=0.02)


def test_the_attention_that_trains_on_a_gpu_keeps_documents_apart(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", None)
    plan = json.loads((finished / "work/plan.json").read_text())
    torch.manual_seed(0)
    model = training.LlamaForCausalLM(training.llama_config(plan, finished / "work", 10_000.0, 256)).eval()
    model.set_attn_implementation("within_documents")
    rng, seen = np.random.default_rng(0), []
    flat = training.DataCollatorWithFlattening(return_flash_attn_kwargs=True)
    mine, one, other = (rng.integers(1, 500, 40).astype(np.uint16) for _ in range(3))
    for neighbour in (one, other):
        batch = dict(flat([{"input_ids": neighbour}, {"input_ids": mine}]))
        del batch["labels"]
        seen.append(model(**batch).logits[0, 40:])
    torch.testing.assert_close(seen[0], seen[1])
    model.set_attn_implementation("sdpa")
    alone = model(input_ids=torch.from_numpy(mine.astype(np.int64))[None]).logits[0]
    torch.testing.assert_close(seen[0], alone, atol=0.02, rtol=0.02)


def test_a_model_of_the_hub_is_trained_in_its_own_tokens(tmp_path: Path, calculator: Path) -> None:
    tokenizer = train_tokenizer([sentences(np.random.default_rng(5), 4000), *FACTS], vocab_size=500)
    shape = LlamaConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64)  # fmt: skip
    for part in (LlamaForCausalLM(shape), tokenizer):
        part.save_pretrained(tmp_path / "model")
    plan = yaml.safe_load((ROOT / "benchmarks/training_effect/plan_hub.yaml").read_text())
    own = plan["base"] | {"pretrained": str(tmp_path / "model")}
    plan |= {name: part for name, part in toy_plan(calculator).items() if name != "model"}
    plan["base"] = own | {"length": 64, "unique_tokens": 6000}
    plan["tokenizer"] = str(tmp_path / "model")
    plan["arms"] = {name: plan["arms"][name] for name in ("random", "LADM", "oracle", "junk")}
    root = run_commands(tmp_path, "At 360 million to 1.1 billion", plan, calculator)
    result = json.loads((root / "results/training_effect.json").read_text())
    assert {arm: len(done) for arm, done in result["runs"].items()} == dict.fromkeys(plan["arms"], 2)
    assert result["prepared"]["vocab_size"] == len(tokenizer)
    # what the calculator reads is the text, not the model's tokens
    pool = Stream.read(root / "work/tokens/pool")
    read = scores.read_by_calculator(plan, pool)
    text = tokenizer.decode(pool[3].tolist())
    ids = AutoTokenizer.from_pretrained(calculator)(text, add_special_tokens=False)["input_ids"]
    assert read[3].tolist() == ids[:512]
    assert np.isfinite(np.load(root / "work/scores/ladm.npy")).all()


@pytest.fixture(scope="module")
def planted_study(tmp_path_factory: pytest.TempPathFactory, calculator: Path) -> Path:
    """The working folder after every command of the documents on the planted variant."""
    plan = yaml.safe_load((ROOT / "benchmarks/training_effect/plan_planted.yaml").read_text())
    own = {name: plan[name] for name in ("planted", "base", "arms", "statistics")}
    plan = toy_plan(calculator) | own
    plan["pool"]["max_tokens"] = 256
    plan["planted"] |= {"pieces": 4}
    plan["base"] |= {"unique_tokens": 20000, "stages": [[1024, 1.0]], "steps": 2, "batch_tokens": 2048,
                     "least_gain": -1.0}  # fmt: skip
    plan["extension"]["micro_batch_tokens"] = 256
    plan["selection"]["budget_tokens"] = 10 * 256
    plan["long_minus_short"]["max_tokens"] = 256
    plan["statistics"] |= {"rounds": 200}
    return run_commands(tmp_path_factory.mktemp("planted"), "The planted variant, again", plan, calculator)


def test_the_planted_variant_runs_from_the_commands_of_the_documents(planted_study: Path) -> None:
    result = json.loads((planted_study / "results/training_effect_planted.json").read_text())
    assert {len(done) for done in result["runs"].values()} == {2}
    assert set(result["runs"]) == set(result["plan"]["arms"])
    assert {"gain", "loss", "parameters"} <= set(result["bases"]["0"])
    assert [[t["arm"], t["against"]] for t in result["measures"]["loss"]["tests"]] == result["plan"]["statistics"][
        "tested"
    ]
    tables = markdown(result)
    assert "oracle 0%, junk 100%." in tables
    assert re.search(r"The base gains .* The sign is the same in \d of 2 runs\.", tables)


def test_splices_hold_the_tokens_of_their_documents_at_the_same_positions(planted_study: Path) -> None:
    work = planted_study / "work"
    stream, table = Stream.read(work / "tokens/pool"), pd.read_parquet(work / "pool.parquet")
    assert set(stream.lengths) == {256}
    size = 4
    for _, group in table.groupby("group"):
        assert group["domain"].nunique() == 1
        documents, splices = (
            np.stack([stream[row] for row in group.index[group["text"] == form]]) for form in (True, False)
        )
        np.testing.assert_array_equal(np.sort(documents, 0), np.sort(splices, 0))
        for splice in splices:
            pieces = zip(np.split(splice, size), np.split(documents, size, axis=1), strict=True)
            came_from = [[row for row in range(size) if (at[row] == piece).all()] for piece, at in pieces]
            assert len({row for rows in came_from for row in rows}) == size


def test_oracle_junk_and_random_train_on_the_same_texts_in_their_forms(planted_study: Path) -> None:
    work = planted_study / "work"
    table = pd.read_parquet(work / "pool.parquet")
    chosen = {
        arm: table.loc[json.loads((work / f"selections/{arm}-1.json").read_text())["rows"]]
        for arm in ("oracle", "junk", "random")
    }
    assert chosen["oracle"]["text"].all()
    assert not chosen["junk"]["text"].any()
    assert chosen["random"]["offered"].all()
    assert 0 < chosen["random"]["text"].mean() < 1
    assert len({tuple(part["group"].value_counts().sort_index().items()) for part in chosen.values()}) == 1
    # nobody but the oracle and its opposite has what is not offered
    scored = table.loc[json.loads((work / "selections/LADM-0.json").read_text())["rows"]]
    assert scored["offered"].all()


def test_no_arm_runs_on_a_base_that_does_not_use_distant_text(planted_study: Path) -> None:
    work = planted_study / "work"
    plan = json.loads((work / "plan.json").read_text())
    plan["base"]["least_gain"] = 10.0
    with pytest.raises(SystemExit, match="the plan asks for 10"):
        training.extended(plan, work, work / "windows/random-0.npz", 0, 0)


def test_the_base_of_the_planted_variant_goes_on_from_its_checkpoint(planted_study: Path) -> None:
    folder = planted_study / "work/bases/0"
    trained, model = ((folder / name).read_bytes() for name in ("trained.json", "model.safetensors"))
    (folder / "trained.json").unlink()
    main(["base", "--work", str(planted_study / "work")])
    assert (folder / "model.safetensors").read_bytes() == model
    assert json.loads((folder / "trained.json").read_bytes())["gain"] == json.loads(trained)["gain"]


def test_heads_that_share_keys_attend_to_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", None)
    torch.manual_seed(0)
    q, (k, v) = torch.randn(1, 4, 9, 16), torch.randn(2, 1, 2, 9, 16)
    bounds = torch.tensor([0, 4, 9], dtype=torch.int32)
    output, _ = training.attention_within_documents(
        torch.nn.Module(), q, k, v, None, cu_seq_lens_q=bounds, max_length_q=5
    )  # fmt: skip
    parts = zip(*(states.split([4, 5], 2) for states in (q, k, v)), strict=True)
    attend = torch.nn.functional.scaled_dot_product_attention
    wanted = torch.cat([attend(*part, is_causal=True, enable_gqa=True) for part in parts], 2).transpose(1, 2)
    torch.testing.assert_close(output, wanted, atol=0.03, rtol=0.03)
