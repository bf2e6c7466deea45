"""What the jobs of a run have left to do, how fast they are expected to be, and that none of them would be refused."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ladm_hf.calculators.calculator import DEFAULT, Outline, outline
from ladm_hf.cli.scoring import config_of, first_config_of, rows_of
from ladm_hf.data.score_columns import checked_signals
from ladm_hf.errors import ResumeError
from ladm_hf.runs.flavors import Pass, Work, work_left, work_of_input
from ladm_hf.runs.open import output_at
from ladm_hf.runs.output import FIRST_PASS
from ladm_hf.runs.speeds import expected_speed
from ladm_hf.selection.options import share_of

if TYPE_CHECKING:
    from ladm_hf.config import LadmConfig
    from ladm_hf.data.run_record import RunRecord
    from ladm_hf.runs.flavors import Flavor

FIRST, SECOND = "first pass", "second pass"


def models_of(values: Mapping[str, Any]) -> list[str]:
    """The calculators of a run: that of the score, and that of a first pass."""
    main = values["model"] or os.environ.get("LADM_MODEL") or DEFAULT
    return [str(main), *([values["cascade"]] if values["cascade"] else [])]


@dataclass(frozen=True)
class _Calculator:
    """A calculator with the configuration in force in a job.

    Attributes:
        model (`str`): what it is called.
        outline ([`Outline`]): its size and calibration.
        config ([`LadmConfig`]): the configuration.
        from_text (`bool`): whether it reads texts.
        signals (`tuple[str, ...]`): what it computes beside the score, of what takes time.
    """

    model: str
    outline: Outline
    config: LadmConfig
    from_text: bool
    signals: tuple[str, ...] = ()

    @property
    def most_tokens(self) -> int:
        return self.config.max_length if self.config.overflow == "truncate" else sys.maxsize

    def on(self, flavor: Flavor, work: Work | None, name: str = "") -> Pass:
        """A pass by it, at the speed of its finished chunks or at one that was measured."""
        if work is not None and work.speed is not None:
            return Pass(work, work.speed, name)
        if self.outline.parameters is None:
            return Pass(work, None, name)
        length = None if work is None else work.tokens_per_document
        cores = flavor.cores // max(flavor.gpus, 1)
        speed = expected_speed(
            flavor.gpu, cores, self.outline.parameters, length, self.signals, from_text=self.from_text
        )
        return Pass(work, speed, name)


def passes_left(values: Mapping[str, Any], flavor: Flavor, *, begun: bool) -> tuple[list[Pass], bool]:
    """What is left to score, and whether the run is finished.

    Args:
        values (mapping): parameters of `ladm score`.
        flavor ([`Flavor`]): the machines.
        begun (`bool`): whether there may be a run.

    Raises:
        ResumeError: there is one with other settings.
        InputError, ColumnError, ConfigError: the data or a column is not there.
    """
    found = outline(models_of(values)[0], values["model_revision"])
    signals = checked_signals(values["signals"])
    config, from_text = config_of(values).over(found.config), bool(values["text_column"])
    calculator = _Calculator(models_of(values)[0], found, config, from_text, tuple(signals))
    output = output_at(values["output"])
    run = output.load() if begun else None
    if run is not None:
        asked = {
            "scores_only": values["scores_only"],
            "signals": ",".join(signals) or None,
            "cascade.keep": values["cascade_keep"],
            "cascade.by": values["cascade_by"] or None if values["cascade"] else None,
        }
        _check_same(output.name, values, run, calculator, asked)
        name = SECOND if values["cascade"] else ""
        return [calculator.on(flavor, work_left(run, output.records(run)), name)], output.is_published(run)
    if values["cascade"]:
        return _both_passes(values, flavor, calculator, begun=begun), False
    return [calculator.on(flavor, _whole(values, calculator))], False


def _both_passes(values: Mapping[str, Any], flavor: Flavor, second: _Calculator, *, begun: bool) -> list[Pass]:
    """The passes of a cascade whose second has not begun."""
    found = outline(values["cascade"], None)
    calculator = _Calculator(values["cascade"], found, first_config_of(values).over(found.config), second.from_text)
    output = output_at(f"{values['output'].rstrip('/')}/{FIRST_PASS}")
    run = output.load() if begun else None
    if run is not None:
        _check_same(output.name, values, run, calculator, {"scores_only": True})
        first: Work | None = work_left(run, output.records(run))
        whole: Work | None = work_left(run, {})
    else:
        first = whole = _whole(values, calculator)
    kept = None
    if whole is not None:
        share = share_of(values["cascade_keep"], whole.tokens)
        # of long documents the second may read more
        read = whole if second.most_tokens == calculator.most_tokens else _whole(values, second)
        kept = None if read is None else read.part(share, None if run is None else run.num_chunks)
    return [calculator.on(flavor, first, FIRST), second.on(flavor, kept, SECOND)]


def _whole(values: Mapping[str, Any], calculator: _Calculator) -> Work | None:
    columns = [column for column in (values["text_column"], values["input_ids_column"]) if column]
    domain = values["cascade_by"] or None if values["cascade"] else None
    return work_of_input(values["input"], columns, calculator.most_tokens, domain=domain, **rows_of(values))


def _check_same(
    name: str, values: Mapping[str, Any], run: RunRecord, calculator: _Calculator, asked: Mapping[str, Any]
) -> None:
    """Refuses settings that every job would be refused for, before any is paid."""
    wanted = {
        "split": values["split"] if str(values["split"] or "").isidentifier() else "train",
        "limit": values["limit"],
        "text_column": values["text_column"] or None,
        "input_ids_column": values["input_ids_column"] or None,
        **asked,
        **{f"config.{name}": value for name, value in calculator.config.to_dict().items()},
    }
    pairs = {key: (run.identity.get(key), value) for key, value in wanted.items()}
    pairs["model"] = (run.calculator or calculator.model, calculator.model)
    pairs["chunks"] = (run.num_chunks, values["chunks"] or run.num_chunks)
    differences = [f"{key}: {there!r} there, {now!r} now" for key, (there, now) in pairs.items() if there != now]
    if differences:
        raise ResumeError(
            f"{name} holds a run with other settings ({'; '.join(differences)}): use the same settings to "
            "continue it, or another OUTPUT"
        )
