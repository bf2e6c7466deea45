# /// script
# requires-python = ">=3.11"
# dependencies = ["ladm-hf[plot]", "hf-xet"]
# ///
"""Select from a dataset that was scored by LADM, to another budget or by another rule, without scoring it again.

    uv run select-dataset.py user/pool-scored user/pool-1b --budget 1e9 --by domain
    hf jobs uv run --flavor cpu-upgrade --secrets HF_TOKEN select-dataset.py user/pool-scored user/pool-1b --budget 1e9

INPUT is a Hub dataset (or a local path) with the columns ladm_score, ladm_num_tokens, ladm_status and
ladm_repetition, OUTPUT the repository to publish to: private unless --public. No GPU is needed.
"""

import argparse
import os
import shlex
import sys


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("input", help="Hub dataset or local path with LADM scores")
    parser.add_argument("output", help="user/name to publish to")
    parser.add_argument("--budget", required=True, help="tokens to keep: 100M, 1e9, ..., or 25%%")
    parser.add_argument("--score", action="append", help="column to rank by, or COLUMN=WEIGHT, repeated, for a blend")
    parser.add_argument("--keep", action="append", help="COLUMN=LOW:HIGH, repeated: range such as 20%%:80%% or 1.5:")
    parser.add_argument("--split", default="train")
    parser.add_argument("--name", help="configuration of INPUT")
    parser.add_argument("--revision", help="revision of INPUT")
    parser.add_argument("--by", default="domain", help="column of the domain to rank within; '' for none")
    parser.add_argument("--strategy", default="exact", choices=["exact", "percent", "temperature"])
    parser.add_argument("--temperature", type=float, help="for --strategy temperature")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--length-bands", default="auto", help="rank within length bands: auto, off, their number, or token counts"
    )
    parser.add_argument("--max-repetition", default="0.4", help="largest ladm_repetition kept, or off")
    parser.add_argument("--max-samples", type=int, help="use only the first N rows: a trial")
    parser.add_argument("--public", action="store_true", help="publish visibly to everybody")
    parser.add_argument("--pr", action="store_true", help="open a pull request instead of committing")
    parser.add_argument("--dry-run", action="store_true", help="do all but publish; show what would be")
    return parser.parse_args()


def main() -> None:
    args = parse()
    # what the log cannot show must not lose the work
    sys.stdout.reconfigure(errors="backslashreplace")
    from datasets import load_dataset

    from ladm_hf import LadmError, publish, select

    local = os.path.exists(args.input)
    try:
        rows = load_dataset(args.input, args.name, split=args.split, revision=args.revision)
        if args.max_samples:
            rows = rows.select(range(min(args.max_samples, rows.num_rows)))
        selection = select(
            rows, score=args.score or "ladm_score", keep=args.keep, budget_tokens=args.budget, by=args.by or None,
            strategy=args.strategy,
            temperature=args.temperature, seed=args.seed, length_bands=args.length_bands,
            max_repetition=args.max_repetition,
        )  # fmt: skip
        print(selection.summary())
        commit = publish(
            selection, args.output, private=not args.public, create_pr=args.pr, dry_run=args.dry_run,
            source_dataset=None if local else args.input,
            command=shlex.join(["uv", "run", "select-dataset.py", *(a for a in sys.argv[1:] if a != "--dry-run")]),
        )  # fmt: skip
    except (LadmError, OSError) as error:
        sys.exit(f"error: {error}")
    if commit is not None:
        print(f"Published: {commit.pr_url or commit.commit_url}")


if __name__ == "__main__":
    main()
