# /// script
# requires-python = ">=3.11"
# dependencies = ["ladm-hf[plot]", "hf-xet"]
# ///
"""Score a dataset of long documents with LADM, keep the best to a token budget, and publish them with a card.

    uv run score-dataset.py user/pool user/pool-ladm --budget 100M --max-samples 200 --dry-run
    hf jobs uv run --flavor l4x1 --secrets HF_TOKEN --timeout 8h score-dataset.py user/pool user/out --budget 1e9

INPUT is a Hub dataset (or a local path), OUTPUT the repository to publish to: private unless --public. No --budget:
all scored rows are published. Work is kept in --work-dir: run the same command again after an interruption.
"""

import argparse
import os
import shlex
import sys
import tempfile


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("input", help="Hub dataset or local path with long documents")
    parser.add_argument("output", help="user/name to publish to")
    parser.add_argument("--split", help="default: train of a Hub dataset, all of a local path")
    parser.add_argument("--name", help="configuration of INPUT")
    parser.add_argument("--revision", help="revision of INPUT")
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--model", default="ladm-nano", help="calculator: a name, a folder or a Hub id")
    parser.add_argument("--signals", default="", help="other signals to write, by commas: compression,context_gain,...")
    parser.add_argument("--short-context", type=int, default=4096, help="tokens of the short context of a signal")
    parser.add_argument(
        "--budget", help="tokens to keep: 100M, 1e9, or 25%%; default: publish all rows with their scores"
    )
    parser.add_argument(
        "--by", help="column of the domain to rank within, '' for none; default: domain if there is one"
    )
    parser.add_argument("--score", action="append", help="column to rank by, or COLUMN=WEIGHT, repeated, for a blend")
    parser.add_argument("--keep", action="append", help="COLUMN=LOW:HIGH, repeated: range such as 20%%:80%% or 1.5:")
    parser.add_argument("--max-repetition", default="0.4", help="largest ladm_repetition kept, or off")
    parser.add_argument("--max-samples", type=int, help="score only the first N rows: a trial")
    parser.add_argument("--allow-cpu", action="store_true", help="run without a GPU: slow")
    parser.add_argument("--work-dir", help="folder for unfinished work; default: one named after OUTPUT")
    parser.add_argument("--public", action="store_true", help="publish visibly to everybody")
    parser.add_argument("--pr", action="store_true", help="open a pull request instead of committing")
    parser.add_argument("--dry-run", action="store_true", help="do all but publish; show what would be")
    return parser.parse_args()


def check_gpu(allow_cpu: bool) -> None:
    import torch

    if torch.cuda.is_available() or allow_cpu:
        return
    sys.exit(
        "error: no CUDA device. On Jobs ask for one (--flavor l4x1); on this machine install a CUDA build of torch, or "
        "pass --allow-cpu for a small trial."
    )


def main() -> None:
    args = parse()
    # what the log cannot show must not lose the work
    sys.stdout.reconfigure(errors="backslashreplace")
    check_gpu(args.allow_cpu)
    from ladm_hf import (
        LadmError,
        LadmScorer,
        is_first_rank,
        parse_budget,
        parse_keep,
        parse_score,
        publish,
        score_dataset,
        select,
    )  # fmt: skip

    work = args.work_dir or os.path.join(tempfile.gettempdir(), "ladm-" + args.output.replace("/", "--"))
    try:
        # options that cannot work are refused before the work
        budget = parse_budget(args.budget) if args.budget else None
        score, keep = parse_score(args.score or "ladm_score"), parse_keep(args.keep)
        local = os.path.exists(args.input)
        split = args.split or (None if local else "train")
        if args.max_samples:
            work += f"-first-{args.max_samples}"
        scorer = LadmScorer(
            args.model, text_column=args.text_column, signals=args.signals, short_context=args.short_context
        )
        scored = score_dataset(
            args.input, work, scorer, split=split, name=args.name, revision=args.revision, limit=args.max_samples
        )
        if not is_first_rank():
            return  # the first rank alone selects and publishes
        result = work
        if budget:
            by = ("domain" if "domain" in scored.column_names else "") if args.by is None else args.by
            result = select(
                work, score=score, keep=keep, budget_tokens=budget, by=by or None, max_repetition=args.max_repetition,
            )  # fmt: skip
            print(result.summary())
        commit = publish(
            result, args.output, private=not args.public, create_pr=args.pr, dry_run=args.dry_run,
            source_dataset=None if local else args.input,
            command=shlex.join(["uv", "run", "score-dataset.py", *(a for a in sys.argv[1:] if a != "--dry-run")]),
        )  # fmt: skip
    except (LadmError, OSError) as error:
        sys.exit(f"error: {error}")
    if commit is not None:
        print(f"Published: {commit.pr_url or commit.commit_url}")


if __name__ == "__main__":
    main()
