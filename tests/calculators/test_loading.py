"""Loading a calculator: whatever is wrong with its files is one sentence that names the file and what to do."""

from __future__ import annotations

import errno
import importlib.util
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from conftest import SMALL, random_ids, tiny_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from ladm_hf import LadmConfig, LadmScorer
from ladm_hf.calculators.calculator import BUNDLED, resolve
from ladm_hf.calculators.loading import load_model
from ladm_hf.errors import CalculatorError, ConfigError, UnsupportedModelError

NANO = BUNDLED["ladm-nano"]
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 123456\n"
WORDS = "the ship left the harbour at dawn and the captain wrote of it " * 60


@pytest.fixture
def nano(tmp_path: Path) -> Path:
    return Path(shutil.copytree(NANO, tmp_path / "nano"))


def configure(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def load(folder: Path) -> None:
    LadmScorer(folder, config=SMALL).score_input_ids([random_ids(400)])


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json", "ladm_config.json"])
def test_a_git_lfs_pointer_is_named(nano: Path, file: str) -> None:
    (nano / file).write_text(POINTER)
    with pytest.raises(CalculatorError, match=rf"^{file} of .* is a git-lfs pointer.*git lfs pull"):
        LadmScorer(nano).score_texts([WORDS])


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:5],
        lambda data: b"",
        lambda data: b"<!DOCTYPE html><html>Not found</html>" * 100,
        lambda data: data[:20] + b"\xff" + data[21:],
    ],
    ids=["cut", "cut in the header", "empty", "web page", "flipped byte"],
)
def test_damaged_weights_are_named(llama_folder: Path, damage: Callable[[bytes], bytes]) -> None:
    weights = llama_folder / "model.safetensors"
    weights.write_bytes(damage(weights.read_bytes()))
    with pytest.raises(CalculatorError, match=r"^model\.safetensors of .* is damaged or no safetensors file"):
        load(llama_folder)


def test_a_missing_part_of_the_weights_is_named(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path, max_shard_size="100KB")
    part = sorted(tmp_path.glob("model-*.safetensors"))[1]
    part.write_text(POINTER)
    with pytest.raises(CalculatorError, match=rf"{part.name} of .* is a git-lfs pointer"):
        load(tmp_path)
    part.unlink()
    with pytest.raises(CalculatorError, match=rf"{part.name} of .* is not there"):
        load(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{")
    with pytest.raises(CalculatorError, match="does not say which files hold the weights"):
        load(tmp_path)


def test_weights_of_another_model_are_refused(llama_folder: Path) -> None:
    configure(llama_folder, hidden_size=32)
    with pytest.raises(CalculatorError, match=r"'embed_tokens\.weight' is \(97, 64\), expected \(97, 32\)"):
        load(llama_folder)
    configure(llama_folder, hidden_size=64, model_type="gpt_neox")
    with pytest.raises(CalculatorError, match="lacks .* weights"):
        load(llama_folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_attention_heads": 0}, "cannot load the model"),
        ({"hidden_size": "sixty-four"}, "cannot load the model"),
        ({"hidden_act": "nonsense"}, "KeyError: 'nonsense'"),
        ({"model_type": "mystery", "auto_map": {"AutoConfig": "c.C", "AutoModel": "m.M"}}, "needs code of its own"),
        ({"quantization_config": {"quant_method": "nonsense"}}, "quantised by 'nonsense'"),
        ({"quantization_config": {}}, "quantised by 'None'"),
    ],
)
def test_a_configuration_that_cannot_be_loaded_is_one_sentence(llama_folder: Path, values, message: str) -> None:
    (llama_folder / "c.py").touch()
    (llama_folder / "m.py").touch()
    configure(llama_folder, **values)
    with pytest.raises(CalculatorError, match=message) as caught:
        load(llama_folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("package", "settings"),
    [
        ("optimum", {"quant_method": "gptq", "bits": 4}),
        ("gptqmodel", {"quant_method": "awq", "bits": 4}),
        ("bitsandbytes", {"quant_method": "bitsandbytes", "load_in_4bit": True}),
        ("bitsandbytes", {"quant_method": "bitsandbytes", "load_in_8bit": True}),
        ("hqq", {"quant_method": "hqq", "quant_config": {}}),
        ("torchao", {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnlyConfig"}}}),
        ("compressed_tensors", {"quant_method": "compressed-tensors", "format": "int-quantized"}),
    ],
)
def test_a_quantised_calculator_without_its_package_names_it(llama_folder: Path, package: str, settings) -> None:
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    configure(llama_folder, quantization_config=settings)
    with pytest.raises(
        CalculatorError, match=f"is quantised \\({settings['quant_method']}\\) and cannot be loaded here"
    ):
        load(llama_folder)


def test_a_quantised_calculator_is_scored_where_its_package_is(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="quantises the model")
    from transformers import BitsAndBytesConfig

    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = AutoModelForCausalLM.from_pretrained(NANO, quantization_config=settings, device_map={"": "cpu"})
    model.save_pretrained(tmp_path)
    for file in ("tokenizer.json", "tokenizer_config.json", "ladm_config.json"):
        shutil.copy(NANO / file, tmp_path)
    exact, close = (LadmScorer(folder).score_texts([WORDS * 6])[0] for folder in (NANO, tmp_path))
    assert close.status == "ok"
    assert close.score == pytest.approx(exact.score, rel=0.1)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "does not fit into the free memory"),
        (MemoryError(), "does not fit into the free memory"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (AssertionError("kernels"), "AssertionError: kernels"),
        (NotImplementedError("only on GPU"), "NotImplementedError: only on GPU"),
        (ModuleNotFoundError("No module named 'timm'", name="timm"), "pip install timm"),
        (TypeError("many\n  lines"), "TypeError: many lines"),
    ],
)
def test_whatever_loading_raises_is_a_calculator_error(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(AutoModel, "from_pretrained", fail)
    with pytest.raises(CalculatorError, match=message):
        load(llama_folder)


def test_a_forward_pass_that_fails_says_so(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import LlamaModel

    def fail(*args: object, **options: object) -> None:
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(LlamaModel, "forward", fail)
    with pytest.raises(UnsupportedModelError, match="'llama' model in torch.float32 on cpu failed.*no kernel image"):
        load(llama_folder)


def test_heads_that_do_not_divide_are_refused(tmp_path: Path) -> None:
    # the default of 32 key heads beside 4 query heads
    AutoModel.from_config(Qwen3Config(hidden_size=64, num_attention_heads=4, num_hidden_layers=1)).save_pretrained(
        tmp_path
    )
    with pytest.raises(UnsupportedModelError, match="4 query heads and 32 key heads"):
        load(tmp_path)


def test_a_live_model_that_is_none_or_not_in_memory(llama: PreTrainedModel) -> None:
    for model in (3, torch.nn.Linear(2, 2)):
        with pytest.raises(ConfigError, match=f"model must be .* found {type(model).__name__}"):
            resolve(model)
    with pytest.raises(CalculatorError, match="on the meta device"):
        resolve(llama.to("meta"))


def test_a_folder_that_cannot_be_read_is_named(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", "model.safetensors")

    monkeypatch.setattr("ladm_hf.calculators.calculator.hash_folder", fail)
    with pytest.raises(CalculatorError, match="cannot be read.*Permission denied.*model.safetensors"):
        resolve(llama_folder)


def test_a_model_saved_without_a_tokenizer_is_refused_for_text(tmp_path: Path) -> None:
    # transformers 5 hands back a tokenizer without a vocabulary for a model type it knows
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "head_dim": 16, "vocab_size": 500}
    for config in (Qwen3Config(**sizes), LlamaConfig(**sizes)):
        folder = tmp_path / config.model_type
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        with pytest.raises(CalculatorError, match="tokenizer.*beside the weights"):
            LadmScorer(folder, config=SMALL).score_texts([WORDS])
        with pytest.raises(CalculatorError, match="tokenizer.*beside the weights"):
            resolve(folder).load_tokenizer()


def with_vocabulary(folder: Path, vocabulary: dict[str, int]) -> Path:
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)
    return folder


def test_a_tokenizer_that_gives_one_id_for_all_words_is_refused(llama_folder: Path) -> None:
    with pytest.raises(CalculatorError, match="gives the same token id for all words"):
        LadmScorer(with_vocabulary(llama_folder, {"<unk>": 0}), config=SMALL).score_texts([WORDS])


def test_a_tokenizer_of_another_alphabet_is_taken_but_knows_no_english(llama_folder: Path) -> None:
    scorer = LadmScorer(with_vocabulary(llama_folder, {"<unk>": 0, "ACGT": 1, "TTAG": 2}), config=SMALL)
    protein, english = scorer.score_texts(["ACGT TTAG " * 300, WORDS])
    assert protein.status == "ok"
    assert english.status == "error: the tokenizer knows no word of this text: all of its tokens are '<unk>'"


def test_a_tokenizer_that_is_built_otherwise_than_stored_is_told(nano: Path, caplog: pytest.LogCaptureFixture) -> None:
    """transformers 5 builds the tokenizers of some classes anew from vocabulary and merges."""
    resolve(nano).load_tokenizer()
    assert not caplog.text
    config = json.loads((nano / "tokenizer_config.json").read_text())
    (nano / "tokenizer_config.json").write_text(json.dumps({**config, "tokenizer_class": "Qwen2Tokenizer"}))
    if type(resolve(nano).load_tokenizer()).__name__ != "Qwen2Tokenizer":
        pytest.skip("this transformers takes the tokenizer that is stored")
    assert "built as a Qwen2Tokenizer, cuts text otherwise than its tokenizer.json" in caplog.text


def test_the_bundled_tokenizer_knows_every_script() -> None:
    scorer = LadmScorer(config=LadmConfig(span_length=16))
    for text in ("北京的春天来得很早。" * 80, "Привет, мир! " * 80, "<unk> " * 400, "\x00\x01" * 400):
        assert scorer.score_texts([text])[0].status == "ok"


def test_threads_that_load_at_once_get_models_of_their_dtype(nano: Path) -> None:
    dtypes = ["bfloat16", "float32"] * 3
    with ThreadPoolExecutor(len(dtypes)) as pool:
        models = pool.map(lambda dtype: load_model(nano, "nano", dtype, "cpu"), dtypes)
    for dtype, model in zip(dtypes, models, strict=True):
        assert {str(parameter.dtype) for parameter in model.parameters()} == {f"torch.{dtype}"}


def test_a_tokenizer_file_that_is_no_json_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(BUNDLED["ladm-nano"], folder)
    (folder / "tokenizer_config.json").write_bytes(b"\xef\xbb\xbf{}")
    with pytest.raises(CalculatorError, match=r"tokenizer_config\.json is no JSON: .*BOM"):
        resolve(folder).load_tokenizer()
