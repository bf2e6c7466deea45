"""CDS of every head of a calculator for some windows: one forward pass a window, after which any choice is arithmetic.

    x_h = CDS_h / CDS_even                                   of each head, with and without a factor of AFS
    score of heads and weights = prod_h x_h ** (w_h / sum(w))        as `ladm_hf.ops.scores.document_score`

Beside them stands the paper's score, for which PFS is averaged over the heads of a layer before anything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ladm_hf.arrays import Floats
from ladm_hf.config import Ablation
from ladm_hf.errors import CalculatorError, ConfigError
from ladm_hf.ops.device import one_thread
from ladm_hf.ops.scores import contextual_dependency_score, even_score
from ladm_hf.ops.spans import SpanGrid
from ladm_hf.scoring.engine import Engine
from ladm_hf.scoring.recorder import SpanRecorder
from ladm_hf.training.windows import Ids

Head = tuple[int, int]
ABLATIONS: tuple[Ablation | None, ...] = (None, "no_std", "no_length_weight")


@dataclass(frozen=True)
class HeadScores:
    """What every head and all heads together say of `N` windows.

    Attributes:
        heads (`tuple[tuple[int, int], ...]`): the `M` heads read, as `(layer, head)`.
        ratios (`dict`): for each ablation `float64` `[N, M]`, `CDS_h / CDS_even`, non-negative.
        all_heads (`dict`): for each ablation `float64` `[N]`, the score over all heads of these layers without weights.
    """

    heads: tuple[Head, ...]
    ratios: dict[Ablation | None, Floats]
    all_heads: dict[Ablation | None, Floats]


def read_heads(
    engine: Engine, windows: Sequence[Ids], layers: Sequence[int] | None = None, progress: bool = False
) -> HeadScores:
    """Reads every head for every window.

    Args:
        engine (`Engine`): a loaded calculator, whose configuration gives the geometry.
        windows (sequence of integer arrays `[T]`): of any lengths.
        layers (sequence of `int`, *optional*): read these layers only; by default all with full attention.
        progress (`bool`, *optional*, defaults to `False`): show a bar.

    Raises:
        ConfigError: a layer is not one of the layers with full attention.
        CalculatorError: a window does not fit in memory by itself, or a head's scores are not finite.
    """
    chosen = engine.plan.scored if layers is None else tuple(sorted(set(layers)))
    if not chosen or not set(chosen) <= set(engine.plan.scored):
        raise ConfigError(
            f"layers must name some of the layers with full attention, {engine.plan.scored}, got {chosen}"
        )
    heads = tuple((layer, head) for layer in chosen for head in range(engine.plan.num_heads[layer]))
    ratios = {ablation: np.empty((len(windows), len(heads))) for ablation in ABLATIONS}
    all_heads = {ablation: np.empty(len(windows)) for ablation in ABLATIONS}

    def read(batch: list[int]) -> tuple[SpanGrid, dict[int, Tensor]]:
        grid = SpanGrid([len(windows[row]) for row in batch], engine.config)
        recorder = SpanRecorder(grid, chosen, {}, engine.span_focus, by_head=True)
        engine.run([np.asarray(windows[row]) for row in batch], recorder)
        return grid, {layer: recorder.pfs[layer].cpu().double() for layer in chosen}

    with tqdm(total=len(windows), desc="Reading heads", unit="window", disable=not progress) as bar:
        for batch, found in engine.budget.run([len(window) for window in windows], read):
            if found is None:
                raise CalculatorError(
                    f"a window of {len(windows[batch[0]]):,} tokens does not fit in memory: give shorter lengths"
                )
            grid, pfs = found
            with one_thread():
                for ablation in ABLATIONS:
                    by_head = [contextual_dependency_score(pfs[layer], grid, ablation) for layer in chosen]
                    ratios[ablation][batch] = (torch.cat(by_head) / even_score(grid, ablation)).T.numpy()
                    together = [contextual_dependency_score(pfs[layer].mean(0), grid, ablation) for layer in chosen]
                    all_heads[ablation][batch] = torch.stack(together).mean(0).numpy()
            bar.update(len(batch))
    wrong = np.flatnonzero(~np.isfinite(ratios[None]).all(0))
    if len(wrong):
        raise CalculatorError(
            f"the scores of head {heads[wrong[0]]} are not finite in {engine.dtype}: try another dtype (float32, or "
            "bfloat16 where the model was trained in it)"
        )
    return HeadScores(heads, ratios, all_heads)
