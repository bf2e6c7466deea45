from __future__ import annotations

import errno
import shutil
from dataclasses import replace

import httpx
import huggingface_hub
import pytest
import torch
from conftest import SMALL, random_ids, tiny_model
from huggingface_hub import errors as hub

from fake_hub.fixtures import fake_hub, hub_process  # noqa: F401
from ladm_hf import LadmConfig, LadmScorer
from ladm_hf.calculators.calculator import BUNDLED, resolve
from ladm_hf.errors import CalculatorError, ConfigError, HubError


def test_the_bundled_calculator_carries_its_calibration() -> None:
    calculator = resolve("ladm-nano")
    assert calculator.config.heads is not None
    assert LadmScorer().config == calculator.config
    assert LadmScorer(config=LadmConfig()).config == calculator.config
    assert sum(file.stat().st_size for file in BUNDLED["ladm-nano"].iterdir()) < 32 << 20


def test_a_config_that_changes_the_geometry_keeps_the_calibration() -> None:
    calibrated = resolve("ladm-nano").config
    for given in ({"span_length": 16}, {"max_length": 4096}, {"overflow": "windows"}):
        config = LadmScorer(config=LadmConfig(**given)).config
        assert config == replace(calibrated, **given)


def test_the_papers_score_is_asked_for_by_name() -> None:
    config = LadmScorer(config=LadmConfig.paper(max_length=4096)).config
    assert (config.heads, config.ablation, config.weights, config.max_length) == (None, None, None, 4096)


def test_other_heads_do_not_inherit_the_weights() -> None:
    assert LadmScorer(config=LadmConfig(heads=[(3, 0), (3, 1)])).config.weights is None


def test_environment_names_the_default(monkeypatch: pytest.MonkeyPatch, llama_folder) -> None:
    scorer = LadmScorer(None)
    before = scorer.identity
    monkeypatch.setenv("LADM_MODEL", str(llama_folder))
    assert scorer.calculator.name == str(llama_folder)
    assert scorer.identity != before
    monkeypatch.delenv("LADM_MODEL")
    assert scorer.identity == before


def test_identity_is_content_not_place(llama_folder, tmp_path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(llama_folder, copy)
    assert resolve(copy).identity == resolve(llama_folder).identity
    (copy / "README.md").write_text("a card")
    assert resolve(copy).identity == resolve(llama_folder).identity
    tiny_model(initializer_range=0.5).save_pretrained(copy)
    assert resolve(copy).identity != resolve(llama_folder).identity


def test_identity_of_a_live_model_is_its_content(llama) -> None:
    before = resolve(llama).identity
    assert resolve(tiny_model()).identity == before
    with torch.no_grad():
        next(llama.parameters())[0, 0] += 1
    assert resolve(llama).identity != before


def test_a_folder_brings_its_own_configuration(llama_folder) -> None:
    (llama_folder / "ladm_config.json").write_text('{"span_length": 16, "heads": [[2, 1]]}')
    assert LadmScorer(llama_folder).config == LadmConfig(span_length=16, heads=((2, 1),))
    assert LadmScorer(llama_folder, config=SMALL).config == replace(SMALL, heads=((2, 1),))
    (llama_folder / "ladm_config.json").write_text('{"span": 16}')
    with pytest.raises(ConfigError, match="'span'"):
        resolve(llama_folder)


def test_folders_that_hold_no_calculator(tmp_path, llama_folder) -> None:
    with pytest.raises(CalculatorError, match=r"no config\.json"):
        resolve(tmp_path)
    with pytest.raises(CalculatorError, match="local folder"):
        resolve(llama_folder, revision="main")
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(CalculatorError, match="holds an adapter.*merge"):
        resolve(tmp_path)
    (llama_folder / "model.safetensors").rename(llama_folder / "pytorch_model.bin")
    with pytest.raises(CalculatorError, match=r"no \.safetensors weights"):
        LadmScorer(llama_folder, config=SMALL).score_input_ids([random_ids(400)])


def test_incomplete_weights_are_refused(llama_folder) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(llama_folder / "model.safetensors")
    del weights["layers.1.mlp.up_proj.weight"]
    save_file(weights, llama_folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CalculatorError, match=r"layers\.1\.mlp\.up_proj\.weight"):
        LadmScorer(llama_folder, config=SMALL).score_input_ids([random_ids(400)])


def test_a_live_models_tokenizer_is_a_part_of_it(llama, tmp_path) -> None:
    before = resolve(llama).identity
    (tmp_path / "tokenizer.json").write_text("{}")
    llama.config._name_or_path = llama.name_or_path = str(tmp_path)
    assert resolve(llama).identity != before


def test_a_broken_config_is_a_calculator_error(llama_folder) -> None:
    (llama_folder / "config.json").write_text('{"model_type": "unheard_of"}')
    with pytest.raises(CalculatorError, match="unheard_of"):
        LadmScorer(llama_folder, config=SMALL).score_input_ids([random_ids(400)])


def test_a_calculator_without_tokenizer_scores_ids_and_says_so_for_text(llama_folder) -> None:
    scorer = LadmScorer(llama_folder, config=SMALL)
    assert scorer.score_input_ids([random_ids(400)])[0].status == "ok"
    # transformers 5.0 makes an empty tokenizer where there is none
    with pytest.raises(CalculatorError, match="(no tokenizer|same token id for all words).*input_ids"):
        scorer.score_texts(["some text " * 500])
    live = LadmScorer(tiny_model(), config=SMALL)
    with pytest.raises(CalculatorError, match="no tokenizer"):
        live.score_texts(["some text " * 500])


def _http_error(kind, status: int):
    response = httpx.Response(status, request=httpx.Request("GET", "http://localhost/x"))
    return kind("refused", response=response)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (lambda: _http_error(hub.GatedRepoError, 403), "gated.*accept its terms"),
        (lambda: _http_error(hub.RevisionNotFoundError, 404), "no revision 'v9'"),
        (lambda: _http_error(hub.RepositoryNotFoundError, 404), "no model 'a/b'.*check the name"),
        (lambda: hub.LocalEntryNotFoundError("offline"), "cannot be reached: check the network"),
        (lambda: _http_error(hub.RepositoryNotFoundError, 401), "hf auth login` or set HF_TOKEN"),
        (lambda: _http_error(hub.HfHubHTTPError, 401), r"\(401\) for the model 'a/b'.*hf auth login` or set HF_TOKEN"),
        (lambda: _http_error(hub.HfHubHTTPError, 403), r"model 'a/b' \(403\).*hf auth login` or set HF_TOKEN"),
        (lambda: _http_error(hub.HfHubHTTPError, 500), "answered with an error"),
        (lambda: OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (lambda: PermissionError(13, "Permission denied", "/cache"), "cannot be kept.*HF_HOME"),
        (lambda: ConnectionResetError("reset"), "network failed"),
        (lambda: httpx.ReadTimeout("silence"), "network failed"),
    ],
)
def test_a_hub_failure_says_which(monkeypatch: pytest.MonkeyPatch, error, message: str) -> None:
    def refuse(*args, **kwargs):
        raise error()

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(HubError, match=message):
        resolve("a/b", revision="v9")


def test_offline_the_network_is_named() -> None:
    with pytest.raises(HubError, match="not in the local cache and the Hub cannot be reached"):
        resolve("nobody/nothing-of-that-name")


def test_what_is_no_name_at_all() -> None:
    with pytest.raises(HubError, match=r"neither a folder here nor a Hub id.*ladm-nano"):
        resolve("./missing/folder/of mine")


def test_a_snapshot_gives_commit_and_config(monkeypatch: pytest.MonkeyPatch, llama_folder, tmp_path) -> None:
    snapshot = tmp_path / "snapshots" / ("c0ffee" * 6)
    shutil.copytree(llama_folder, snapshot)
    asked = []

    def download(name, revision=None, allow_patterns=None, ignore_patterns=None):
        asked.append((name, revision, allow_patterns))
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    scorer = LadmScorer("a/b", revision="v1", config=SMALL)
    assert scorer.calculator.identity == f"a/b@{'c0ffee' * 6}"
    assert scorer.score_input_ids([random_ids(400)])[0].status == "ok"
    assert asked[0][:2] == ("a/b", "v1")
    assert not any(pattern.endswith((".bin", ".py")) for pattern in asked[0][2])


@pytest.mark.parametrize("sharded", [False, True])
def test_only_what_is_loaded_is_downloaded(fake_hub, tmp_path, monkeypatch, sharded: bool) -> None:
    folder, api = tmp_path / "repository", huggingface_hub.HfApi()
    tiny_model().save_pretrained(folder, max_shard_size="100KB" if sharded else "5GB")
    shutil.copy(BUNDLED["ladm-nano"] / "tokenizer.json", folder)
    loaded = {file.name for file in folder.iterdir()}
    for name in (
        "original/consolidated.00.safetensors", "original/tokenizer.model", "onnx/model.onnx", "onnx/config.json",
        "checkpoint-500/model.safetensors", "checkpoint-500/config.json", "consolidated.safetensors",
        "pytorch_model.bin", "model-q4.gguf", "model.fp16.safetensors", "tf_model.h5", "modeling_x.py", "README.md",
    ):  # fmt: skip
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(name.encode() * 100)
    api.create_repo("tester/calculator")
    api.upload_folder(repo_id="tester/calculator", folder_path=folder)
    calculator = resolve("tester/calculator")
    assert calculator.path is not None
    assert {str(file.relative_to(calculator.path)) for file in calculator.path.rglob("*")} == loaded
    weights = {name for name in loaded if name.endswith(".safetensors")}
    assert (weights == {"model.safetensors"}) is not sharded
    assert LadmScorer("tester/calculator", config=SMALL).score_input_ids([random_ids(400)])[0].status == "ok"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert resolve("tester/calculator") == calculator
