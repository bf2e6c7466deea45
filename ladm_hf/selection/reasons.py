"""Why a document was not kept: the column `ladm_drop_reason`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ladm_hf.arrays import Bools
from ladm_hf.data.score_columns import FIRST_PASS_ONLY
from ladm_hf.selection.pool import Pool
from ladm_hf.selection.ranking import Budgets
from ladm_hf.selection.signals import without_value

DROP_REASON = "ladm_drop_reason"
DROP_REASONS = {
    "below_cut": "ranked below the last document kept in its domain",
    "above_cut": "ranked above the last document kept in its domain",
    "not_drawn": "not drawn by the sampling",
    "no_share": "its domain has no share of the budget",
    "repeated": "repeats itself: its ladm_repetition is above max_repetition",
    "below_range": "has a lower value in that column than its domain's range allows",
    "above_range": "has a higher value in that column than its domain's range allows",
    "no_value": "has no finite value in that column, which has a range",
    "no_score": "has no finite score, though its status names no cause",
    "no_status": "has a score but no status",
    "no_token_count": "has a score but no token count",
    "too_short": "too short to be scored",
    "empty": "an empty text",
    "null": "no text at all",
    FIRST_PASS_ONLY: "did not survive the first pass of a cascade, so it has no score that could be ranked",
}
# Of documents that have a score; the other reasons say why there is none.
_OF_SCORED = ("below_cut", "above_cut", "not_drawn", "no_share", "repeated", "below_range", "above_range", "no_value")
# Why a strategy leaves a document that has a score.
_LEFT_OUT = {
    "exact": "below_cut",
    "percent": "below_cut",
    "top-k": "below_cut",
    "bottom-k": "above_cut",
    "threshold": "below_cut",
    "temperature": "not_drawn",
}


def meaning(reason: str) -> str | None:
    """What a reason says, for people; `None` for a status as the scoring left it."""
    return DROP_REASONS.get(reason.partition(": ")[0])


def had_a_score(reason: str) -> bool:
    """Whether a document dropped for this reason had a score."""
    return reason.partition(": ")[0] in _OF_SCORED


def reasons_of(pool: Pool, kept: Bools, options: Mapping[str, Any], budgets: Budgets | None) -> pa.Array:
    """Why each row was dropped, null where it was kept.

    Args:
        pool ([`Pool`]): all rows.
        kept (`bool` array `[N]`): those that were kept.
        options (mapping): checked options.
        budgets ([`Budgets`], *optional*): how a budget was divided.
    """
    names = ["no_score", "no_status", "no_token_count", _LEFT_OUT[options["strategy"]], "no_share", "repeated"]
    code = np.where(np.isfinite(pool.score), np.where(pool.tokens < 0, 2, 1), 0)
    if not isinstance(options["score"], str):
        missing, columns = without_value(pool.signals, options["score"])
        code = np.where(missing >= 0, len(names) + missing, code)
        names += [f"no_score: {column}" for column in columns]
    code[pool.eligible] = 3
    if pool.outside is not None:
        out = pool.scored & (pool.outside >= 0)
        code[out] = len(names) + pool.outside[out]
        names += pool.range_reasons
    if pool.repeated is not None:
        code[pool.scored & pool.repeated] = 5
    if budgets is not None:
        without = np.array([share == 0 for share in budgets.share], dtype=bool)
        code[pool.eligible & without[pool.code]] = 4
    reasons = pa.array(names).take(pa.array(code, mask=kept))
    if pool.status is None:
        return reasons
    bad = pc.fill_null(pc.not_equal(pool.status, "ok"), False)
    return pc.if_else(bad, pool.status.cast(pa.string()), pa.chunked_array([reasons])).combine_chunks()
