# /// script
# requires-python = ">=3.11"
# dependencies = ["ladm-hf[plot]", "hf-xet"]
# ///
"""Train a LADM calculator on your documents, calibrate its heads on held-out sources, and publish it.

    uv run train-calculator.py user/long-documents user/my-calculator --steps 20 --dry-run
    hf jobs uv run --flavor h100 --secrets HF_TOKEN --timeout 4h train-calculator.py user/long-documents user/calculator

INPUT is a Hub dataset (or local files) with a text column, best with domain, source and kind too. OUTPUT is the model
repository to publish to: private unless --public. Run the same command again after an interruption.
"""

import argparse
import os
import sys
import tempfile
from dataclasses import replace
from itertools import compress
from pathlib import Path

# ladm-nano's
VIEWS = "document:0 text:1 order:2 quality:3"
MIX = {"natural": 0.22, "interleaved": 0.06, "spliced": 0.3, "joined": 0.06, "shuffled": 0.13, "renamed": 0.08}
MIX |= {"degenerate": 0.15, "same_source": 0.65}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", help="Hub dataset or local files with long documents")
    parser.add_argument("output", help="user/name of the model repository to publish to")
    parser.add_argument("--split", default="train")
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--base", default="ladm-nano", help="model to start from: ladm-nano, a folder or a Hub id")
    parser.add_argument("--paper", action="store_true", help="the paper's recipe; use --base TinyLlama/TinyLlama_v1.1")
    parser.add_argument("--focus-layer", type=int, default=5, help="layer whose heads learn to find their document")
    parser.add_argument("--view", action="append", metavar="NAME:HEADS", help=f"what they learn; default: {VIEWS}")
    for name, share in MIX.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, help=f"share of such windows; default: {share}")
    parser.add_argument("--layers", type=int, dest="num_hidden_layers", help="layers that the base is expanded to")
    parser.add_argument("--intermediate-size", type=int, help="MLP width that the base is expanded to")
    parser.add_argument("--steps", type=int, help="optimizer steps")
    parser.add_argument("--held-out", type=float, default=0.12, help="share of sources held out, to calibrate on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--allow-cpu", action="store_true", help="run without a GPU: slow")
    parser.add_argument("--work-dir", help="folder for the model and checkpoints; default: one named after OUTPUT")
    parser.add_argument("--public", action="store_true", help="publish visibly to everybody")
    parser.add_argument("--dry-run", action="store_true", help="do all but publish")
    return parser.parse_args()


def main() -> None:
    args = parse()
    import torch
    from huggingface_hub import HfApi
    from transformers import AutoConfig

    if not torch.cuda.is_available() and not args.allow_cpu:
        sys.exit("error: no CUDA device. On Jobs ask for one (--flavor h100), or pass --allow-cpu for a small trial.")
    from ladm_hf import LadmError, LadmScorer, is_first_rank
    from ladm_hf.training import (
        PAPER,
        Architecture,
        Recipe,
        calibrate,
        held_out,
        load_documents,
        tokenize_documents,
        train_calculator,
        write_calibration,
    )

    work = Path(args.work_dir or os.path.join(tempfile.gettempdir(), "ladm-" + args.output.replace("/", "--")))
    try:
        base = LadmScorer(args.base).calculator
        tokenizer = base.load_tokenizer()
        documents = tokenize_documents(load_documents(args.input, args.split), tokenizer, args.text_column)
        recipe = PAPER
        if not args.paper:
            pairs = [view.split(":") for view in args.view or VIEWS.split()]
            views = tuple((f"{name}_labels", tuple(map(int, heads.split(",")))) for name, heads in pairs)
            recipe = Recipe(focus_layers=(args.focus_layer,), focus_views=views, focus_weight=2.0, lm_weight=0.5)
        given = {name: vars(args)[name] for name in MIX if vars(args)[name] is not None}
        mix = replace(recipe.mix, **{**({} if args.paper else MIX), **given})
        recipe = replace(recipe, mix=mix, held_out=args.held_out, seed=args.seed, steps=args.steps or recipe.steps)
        sizes = {name: vars(args)[name] for name in ("num_hidden_layers", "intermediate_size") if vars(args)[name]}
        shape = replace(Architecture.of(AutoConfig.from_pretrained(base.path)), **sizes) if sizes else None
        train_calculator(
            documents,
            tokenizer,
            work,
            recipe,
            base=base.path,
            architecture=shape,
            resume=any((work / "checkpoints").glob("checkpoint-*")),
            compile=torch.cuda.is_available(),
            num_workers=2,
        )
        if not is_first_rank():
            return  # the first rank alone calibrates and publishes
        apart = list(compress(documents, held_out(documents, args.held_out, args.seed)))
        found = calibrate(work, apart, layers=None if args.paper else [args.focus_layer], progress=True)
        write_calibration(work, found)
        print(f"{found.table()}\nheads {found.config.heads}, weights {found.config.weights}")
        if args.dry_run:
            print(f"Not published. The calculator is in {work}")
            return
        api = HfApi()
        api.create_repo(args.output, private=not args.public, exist_ok=True)
        commit = api.upload_folder(
            repo_id=args.output, folder_path=work, ignore_patterns=["checkpoints/*"], commit_message="Add calculator"
        )
    except (LadmError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"Published: {commit.commit_url}")


if __name__ == "__main__":
    main()
