"""What `ladm score` does on this machine: from options to a scorer, and from that to a run or an estimate."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from ladm_hf.cli.options import NOTHING_SCORED
from ladm_hf.errors import LadmError

if TYPE_CHECKING:
    from ladm_hf.config import LadmConfig
    from ladm_hf.runs.cascade import Cascade
    from ladm_hf.scoring.scorer import LadmScorer

GEOMETRY = ("span_length", "d_afs", "d_cds", "ablation", "max_length", "overflow")
_ROWS = ("split", "name", "revision", "limit")


def config_of(values: Mapping[str, Any]) -> LadmConfig:
    """The configuration that options give, without what the calculator's calibration adds."""
    from ladm_hf.config import LadmConfig

    base = LadmConfig() if values["config"] is None else LadmConfig.from_json_file(values["config"])
    given = {name: getattr(base, name) for name in base.given} | _geometry(values)
    return LadmConfig.paper(**given) if values["paper"] else LadmConfig(**given)


def first_config_of(values: Mapping[str, Any]) -> LadmConfig:
    """That of a first pass: the same geometry but for the length, and the calculator's own calibration."""
    from ladm_hf.config import LadmConfig

    given = {name: value for name, value in _geometry(values).items() if name != "ablation"}
    if values["cascade_max_length"] is not None:
        given["max_length"] = values["cascade_max_length"]
    return LadmConfig(**given)


def _geometry(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in GEOMETRY if values[name] is not None}


def _scorer(values: Mapping[str, Any]) -> LadmScorer:
    from ladm_hf.scoring.scorer import LadmScorer

    return LadmScorer(
        values["model"],
        revision=values["model_revision"],
        config=config_of(values),
        signals=values["signals"],
        short_context=values["short_context"],
        **_shared(values),
    )


def _cascade(values: Mapping[str, Any]) -> Cascade | None:
    """The first pass, over the same rows on the same device."""
    if values["cascade"] is None:
        return None
    from ladm_hf.runs.cascade import Cascade
    from ladm_hf.scoring.scorer import LadmScorer

    scorer = LadmScorer(values["cascade"], config=first_config_of(values), **_shared(values))
    return Cascade(scorer, values["cascade_keep"], values["cascade_by"] or None)


def _shared(values: Mapping[str, Any]) -> dict[str, Any]:
    """What both passes have alike."""
    names = ("dtype", "device", "backend", "max_batch_tokens", "on_error")
    columns = {name: values[name] or None for name in ("text_column", "input_ids_column")}
    return {**{name: values[name] for name in names}, **columns}


def rows_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """The rows of the input that count."""
    return {name: values[name] for name in _ROWS}


def show_estimate(values: Mapping[str, Any]) -> None:
    """Shows what scoring takes on this machine, by a sample."""
    from ladm_hf.runs.runner import estimate_scoring
    from ladm_hf.selection.options import share_of

    cascade, scorer = _cascade(values), _scorer(values)
    found = estimate_scoring(values["input"], scorer, **rows_of(values))
    if found is None:
        print("nothing to score: no document has a token")
    elif cascade is None:
        print(found)
    else:
        first = estimate_scoring(values["input"], cascade.scorer_beside(scorer), **rows_of(values))
        assert first is not None
        kept = found.part(share_of(cascade.keep, first.tokens))
        print(f"first pass: {first}\nsecond pass: {kept}")


def score_here(values: Mapping[str, Any], command: str, options: str) -> None:
    """Scores, and shows the result.

    Args:
        values (mapping): parameters of `ladm score`.
        command (`str`), options (`str`): see [`run_scoring`].
    """
    from ladm_hf.ranks import is_first_rank, tell_launcher
    from ladm_hf.runs.open import lock_of, output_at

    main, output = is_first_rank(), values["output"]
    if main:
        # a second launch is refused before it spends seconds on importing torch
        lock_of(output_at(output)).check_free(lambda message: print(f"ladm: {message}", file=sys.stderr))

    import torch

    from ladm_hf.runs.progress import run_status
    from ladm_hf.runs.runner import run_scoring

    progress = False if values["quiet"] else None
    kept = {name: values[name] for name in ("chunks", "scores_only", "jsonl", "restart")}
    try:
        cascade = _cascade(values)
        run_scoring(
            values["input"], output, _scorer(values), **rows_of(values), **kept, progress=progress, command=command,
            options=options, cascade=cascade,
        )  # fmt: skip
    except LadmError as error:
        if main:
            raise
        # rank 0 prints what all ranks share
        tell_launcher(str(error))
        raise SystemExit(1) from None
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    if not main:
        return
    status = run_status(output)
    if progress is not False:
        print(f"{status}\nresult: {output_at(output).name}/data")
    if not status.num_scored:
        print(f"error: {status.why_nothing_was_scored()}", file=sys.stderr)
        tell_launcher(status.why_nothing_was_scored())
        raise typer.Exit(NOTHING_SCORED)
