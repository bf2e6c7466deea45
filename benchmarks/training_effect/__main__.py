"""Is a model better for having continued its training on selected documents? One stage after the other:

    python -m benchmarks.training_effect prepare --pool POOL... --corpus TRAIN... --held-out FILES...
    python -m benchmarks.training_effect score --earlier FOLDER     # on a GPU where there is one
    python -m benchmarks.training_effect select
    python -m benchmarks.training_effect base                       # on a GPU
    python -m benchmarks.training_effect extend --arms oracle junk  # on a GPU: stage 0
    python -m benchmarks.training_effect extend                     # on a GPU
    python -m benchmarks.training_effect analyse

Every stage leaves alone what is there already, so that a stage that was cut off is started again by the same command.
`score`, `base` and `extend` need token ids alone: `pack` and `unpack` move them to a machine without the texts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from filelock import FileLock, Timeout

from . import plan as plans
from .plan import Plan
from .store import pack, unpack, write_json

HERE = Path(__file__).parent
# Files that every stage on a GPU needs.
SMALL = ("plan.json", "prepared.json", "held_out.json", "probes.json", "probes.npz")


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    work: Path = options.work
    if options.stage == "unpack":
        unpack(options.folder, work)
        return
    plan = plans.adopt(options.plan, work) if options.stage == "prepare" else plans.load(work)
    if options.stage == "prepare":
        from .prepare import prepare

        prepare(plan, work, options.pool, options.corpus, options.held_out)
    elif options.stage == "score":
        from .scores import score

        score(plan, work, options.earlier, options.device)
    elif options.stage == "select":
        from .arms import select_arms

        select_arms(plan, work)
    elif options.stage == "base":
        from .training import train_base

        for seed in plan["base"]["seeds"][options.part[0] :: options.part[1]]:
            train_base(plan, work, seed)
    elif options.stage == "extend":
        extend(plan, work, options)
    elif options.stage == "pack":
        for path in pack(work, files_of(work, options.what), options.folder, options.piece_mib << 20):
            print(f"{path} {path.stat().st_size / 2**20:.1f} MiB")
    else:
        from .analysis import analyse

        analyse(plan, work, options.output, options.name)


def files_of(work: Path, what: str) -> list[str]:
    """Files of the working folder that are moved together."""

    def streams(*names: str) -> list[str]:
        return [f"tokens/{name}{end}" for name in names for end in (".u16", ".offsets.npy")]

    if what == "small":
        return [*SMALL, *streams("mix", "held_out", "short"), "windows/mix.npz"]
    if what == "windows":
        return [f"windows/{path.stem}.npz" for path in sorted((work / "selections").glob("*.json"))]
    if what == "pool":
        return streams("pool")
    return [*streams("base"), *(name for name in ("windows/base.npz", "base.json") if (work / name).exists())]


def runs(plan: Plan) -> Iterator[tuple[int, int, str]]:
    """Seed, base and arm of every run: whole seeds first, so that what is cut off is the same for all arms."""
    for seed in plan["extension"]["seeds"]:
        for base in plan["base"]["seeds"]:
            for arm in plan["arms"]:
                yield seed, base, arm


def extend(plan: Plan, work: Path, options: argparse.Namespace) -> None:
    """`runs/ARM-BASE-SEED.json` of every run whose windows and base are there, until the time is over.

    Processes that share the folder share the runs: each takes the first that no other has in hand.
    """
    begun, longest = time.monotonic(), 0.0
    part, parts = options.part
    wanted = [run for run in runs(plan) if not options.arms or run[2] in options.arms][part::parts]
    (work / "runs").mkdir(exist_ok=True)
    while (taken := free_run(plan, work, wanted)) is not None:
        run, held = taken
        with held:
            start = time.monotonic()
            if start - begun + longest > options.max_minutes * 60:
                print("out of time: the same command goes on from here", flush=True)
                return
            one_run(plan, work, *run)
            longest = max(longest, time.monotonic() - start)
    passed_over = [absent for run in wanted if (absent := missing(plan, work, run))]
    if passed_over:
        first, *others = dict.fromkeys(path for absent in passed_over for path in absent)
        more = f" and {len(others)} other files" if others else ""
        print(f"{len(passed_over)} of {len(wanted)} runs were passed over for want of {first}{more}", flush=True)


def missing(plan: Plan, work: Path, run: tuple[int, int, str]) -> list[str]:
    """What a run that is not there yet needs and has not, as paths in the working folder."""
    seed, base, arm = run
    if result_file(work, seed, base, arm).exists():
        return []
    needed = (work / "bases" / str(base) / "trained.json", windows_file(plan, work, seed, arm))
    return [str(path.relative_to(work)) for path in needed if not path.exists()]


def free_run(
    plan: Plan, work: Path, wanted: list[tuple[int, int, str]]
) -> tuple[tuple[int, int, str], AbstractContextManager[object]] | None:
    """The first run that can be made and that nobody makes, and the lock that keeps it for this process."""
    for seed, base, arm in wanted:
        target = result_file(work, seed, base, arm)
        if target.exists() or missing(plan, work, (seed, base, arm)):
            continue
        try:
            held = FileLock(target.with_name(f".{target.name}.lock"), blocking=False).acquire()
        except Timeout:
            continue
        if not target.exists():
            return (seed, base, arm), held
        # another process has made it since it was looked for
        held.lock.release()
    return None


def one_run(plan: Plan, work: Path, seed: int, base: int, arm: str) -> None:
    from .measures import measure
    from .training import extended

    start = time.monotonic()
    model, training = extended(plan, work, windows_file(plan, work, seed, arm), base, seed)
    measured = time.monotonic()
    found = {"arm": arm, "base": base, "seed": seed, "plan": plans.digest(plan), "training": training}
    found |= measure(plan, work, model)
    found["measuring_seconds"] = round(time.monotonic() - measured, 2)
    write_json(result_file(work, seed, base, arm), found)
    loss = sum(found["loss"]) / len(found["loss"])
    print(f"{arm}, base {base}, seed {seed}: {loss:.4f} in {time.monotonic() - start:.1f} s", flush=True)


def result_file(work: Path, seed: int, base: int, arm: str) -> Path:
    return work / "runs" / f"{plans.slug(arm)}-{base}-{seed}.json"


def windows_file(plan: Plan, work: Path, seed: int, arm: str) -> Path:
    draw = seed if plans.drawn(plan["arms"][arm]) else plan["extension"]["seeds"][0]
    return work / "windows" / f"{plans.slug(arm)}-{draw}.npz"


def fraction(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    return int(part), int(parts)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    stages = parser.add_subparsers(dest="stage", required=True)

    def stage(name: str, help: str) -> argparse.ArgumentParser:
        added = stages.add_parser(name, help=help)
        added.add_argument("--work", type=Path, default=Path("build/training_effect"), help="folder of all stages")
        return added

    prepare = stage("prepare", "texts to token ids")
    prepare.add_argument("--plan", type=Path, default=HERE / "plan.yaml")
    prepare.add_argument("--pool", nargs="+", required=True, help="parquet files to choose from")
    prepare.add_argument("--corpus", nargs="+", required=True, help="parquet files that the bases are trained on")
    prepare.add_argument("--held-out", nargs="+", required=True, help="parquet files to evaluate on")
    score = stage("score", "the pool's scores by every rule that needs a model")
    score.add_argument("--earlier", required=True, help="folder of ladm-nano as of version 0.1.0")
    score.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    stage("select", "the documents of every arm")
    base = stage("base", "trains the bases")
    extend = stage("extend", "continues the training of every base on every arm, and measures it")
    extend.add_argument("--arms", nargs="+", default=[], help="these alone")
    for added in (base, extend):
        added.add_argument("--part", type=fraction, default=(0, 1), help="2/4: every fourth run, from the third on")
    extend.add_argument("--max-minutes", type=float, default=1e9, help="start no run that would end later")
    packs = stage("pack", "compressed pieces of what the GPU's stages need")
    packs.add_argument("what", choices=["base", "pool", "small", "windows"])
    packs.add_argument("folder", type=Path)
    packs.add_argument("--piece-mib", type=int, default=16)
    stage("unpack", "puts the pieces of a folder in place").add_argument("folder", type=Path)
    analyse = stage("analyse", "statistics, tables and figure")
    analyse.add_argument("--output", type=Path, default=HERE.parent / "results", help="folder of the results")
    names = [Path(figure).stem for figure in plans.FIGURES]
    analyse.add_argument("--name", default=names[0], choices=names, help="beginning of the names of their files")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
