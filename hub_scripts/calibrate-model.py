# /// script
# requires-python = ">=3.11"
# dependencies = ["ladm-hf", "hf-xet"]
# ///
"""Calibrate any model of the Hub for LADM scores, and offer the result to its repository as a pull request.

    uv run calibrate-model.py user/model --dry-run
    uv run calibrate-model.py user/model user/long-documents --repo user/model-ladm
    hf jobs uv run --flavor l4x1 --secrets HF_TOKEN calibrate-model.py user/model user/long-documents

Chooses a few attention heads, their weights and the factors of the score by what a score must do, on one half of the
sources, and measures the choice on the other. DOCUMENTS are Hub datasets or local files with a text column, best with
domain, source and kind too; without any, the code and documentation of Python and its packages here serve. The pull
request adds ladm_config.json and nothing else. --repo writes to a repository of yours instead, --output to a folder.
"""

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

CARD = """---
base_model: {model}
tags:
- ladm
---

# LADM calibration of {model}

`ladm_config.json` says which attention heads of [{model}](https://huggingface.co/{model}) count, and how much, in the
LADM score of a document's long-range dependency:

```python
from huggingface_hub import hf_hub_download
from ladm_hf import LadmConfig, LadmScorer

config = LadmConfig.from_json_file(hf_hub_download("{repo}", "ladm_config.json"))
scorer = LadmScorer("{model}", config=config)
```

{table}
"""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="user/name of the model, or a local folder")
    parser.add_argument("documents", nargs="*", help="Hub dataset or local files; default: what Python brings along")
    parser.add_argument("--degenerate", nargs="+", help="more documents, all of which should score low")
    parser.add_argument("--split", default="train")
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--max-heads", type=int, default=4)
    parser.add_argument("--layer", type=int, action="append", help="choose from its heads only; may be repeated")
    parser.add_argument("--length", type=int, action="append", help="tokens of the windows; default: 4096 and 8192")
    parser.add_argument("--windows", type=int, default=24, help="natural windows of each length and half, about")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", default="auto", help="of the weights: auto, float32, float16 or bfloat16")
    parser.add_argument("--allow-cpu", action="store_true", help="run without a GPU: slow")
    parser.add_argument("--repo", help="user/name of a repository of yours to write to, in place of a pull request")
    parser.add_argument("--public", action="store_true", help="make that repository visible to everybody")
    parser.add_argument("--output", help="folder to write ladm_config.json to, in place of a pull request")
    parser.add_argument("--dry-run", action="store_true", help="do all but publish")
    return parser.parse_args()


def main() -> None:
    args = parse()
    import torch
    from huggingface_hub import CommitOperationAdd, HfApi

    if not torch.cuda.is_available() and not args.allow_cpu:
        sys.exit("error: no CUDA device. On Jobs ask for one (--flavor l4x1), or pass --allow-cpu for a small model.")
    from ladm_hf import LadmError, LadmScorer
    from ladm_hf.training import calibrate, library_documents, load_documents, tokenize_documents, write_calibration

    folder = Path(args.output or tempfile.mkdtemp(prefix="ladm-calibration-"))
    try:
        tokenizer = LadmScorer(args.model).calculator.load_tokenizer()
        data = load_documents(args.documents, args.split) if args.documents else library_documents()
        documents = tokenize_documents(data, tokenizer, args.text_column if args.documents else "text")
        if args.degenerate:
            low = tokenize_documents(load_documents(args.degenerate, args.split), tokenizer, args.text_column)
            documents += [replace(document, kind="degenerate") for document in low]
        found = calibrate(
            args.model,
            documents,
            lengths=args.length,
            windows=args.windows,
            max_heads=args.max_heads,
            layers=args.layer,
            seed=args.seed,
            dtype=args.dtype,
            progress=True,
        )
        folder.mkdir(parents=True, exist_ok=True)
        path = write_calibration(folder, found)
        print(f"{found.table()}\nheads {found.config.heads}, weights {found.config.weights}\nWritten: {path}")
        if args.output or args.dry_run:
            return
        api, message = HfApi(), "Add a LADM calibration"
        files = [CommitOperationAdd("ladm_config.json", path)]
        if args.repo:
            api.create_repo(args.repo, private=not args.public, exist_ok=True)
            card = CARD.format(model=args.model, repo=args.repo, table=found.table())
            files.append(CommitOperationAdd("README.md", card.encode()))
            commit = api.create_commit(args.repo, files, commit_message=message)
        else:
            text = f"Read by `ladm_hf.LadmScorer`; changes nothing for other users.\n\n{found.table()}"
            commit = api.create_commit(
                args.model, files, commit_message=message, commit_description=text, create_pr=True
            )
    except (LadmError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"Published: {commit.pr_url or commit.commit_url}")


if __name__ == "__main__":
    main()
