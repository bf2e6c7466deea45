"""Calibration: which heads of a calculator, and which factors of the score, tell natural documents from splices.

    documents -> natural and spliced windows -> PFS of every head -> a few heads by greedy choice -> ladm_config.json

The heads are ranked by the area under the ROC curve, averaged over domains and settings. What the choice is worth is
measured on sources that did not take part in it: sources are divided into folds, the choice is made on all folds but
one, and tested on that one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xxhash
from torch import Tensor
from tqdm.auto import tqdm

from ladm_hf.arrays import Bools, Floats, Ints
from ladm_hf.calculators.calculator import resolve
from ladm_hf.calculators.files import CONFIG_FILE
from ladm_hf.config import Ablation, LadmConfig
from ladm_hf.errors import ConfigError, InputError
from ladm_hf.ops import SpanFocus
from ladm_hf.ops.scores import contextual_dependency_score
from ladm_hf.ops.spans import SpanGrid
from ladm_hf.scoring.engine import Engine
from ladm_hf.scoring.recorder import SpanRecorder
from ladm_hf.stats import area_under_curve
from ladm_hf.training.documents import TokenizedDocument, source_units
from ladm_hf.training.labelled import LabelledWindow, labelled_windows

Head = tuple[int, int]
ABLATIONS: tuple[Ablation | None, ...] = (None, "no_std", "no_length_weight")
# A setting of the test: tokens of a window, pieces of the splices (0 for joined short documents).
Setting = tuple[int, int]
# Another head must raise the area under the curve by this much: ties and noise do not add heads.
MIN_GAIN = 0.002
# Heads that are good by themselves, from which sets are made.
CANDIDATES = 12
# Padded tokens in a forward pass on an accelerator.
DEVICE_TOKENS = 131_072


@dataclass(frozen=True)
class Calibration:
    """The choice and what it is worth.

    Attributes:
        config ([`LadmConfig`]): the calculator's own configuration from now on.
        auc (`float`): area under the curve on folds that took no part in the choice, mean over folds, settings and
            domains; 0.5 is chance.
        settings (`dict[str, float]`): the same by setting, `"8192 x 2"` for splices of two.
        domains (`dict[str, float]`): the same by domain.
        uncalibrated (`float`): the paper's score on the same windows, with all heads of the layers considered.
        heads (`dict[str, float]`): every head by itself, `"layer.head"`, with the factors chosen, on all windows.
        windows, documents (`int`): how many were used.
    """

    config: LadmConfig
    auc: float
    settings: dict[str, float]
    domains: dict[str, float]
    uncalibrated: float
    heads: dict[str, float]
    windows: int
    documents: int

    def record(self) -> dict[str, Any]:
        """The `calibration` entry of `ladm_config.json`."""
        rounded = {name: round(value, 3) for name, value in self.heads.items()}
        return {
            "auc": round(self.auc, 3),
            "auc_uncalibrated": round(self.uncalibrated, 3),
            "auc_by_setting": {name: round(value, 3) for name, value in self.settings.items()},
            "auc_by_domain": {name: round(value, 3) for name, value in self.domains.items()},
            "auc_by_head": dict(sorted(rounded.items(), key=lambda item: -item[1])),
            "windows": self.windows,
            "documents": self.documents,
        }


class HeadRecorder(SpanRecorder):
    """Collects the PFS of every head during one forward pass, on the CPU: layer -> `[B, H, R, S]`."""

    def __init__(self, grid: SpanGrid, layers: tuple[int, ...], span_focus: SpanFocus) -> None:
        super().__init__(grid, layers, {}, span_focus)

    def record(self, layer: int, q: Tensor, k: Tensor, scale: float, lse: Tensor | None, softcap: float | None) -> None:
        self.keep(layer, self.span_focus(q, k, self.grid, scale, lse, softcap))

    def keep(self, layer: int, pfs: Tensor) -> None:
        self.pfs[layer] = pfs.float().cpu()


def head_focus(engine: Engine, ids: npt.NDArray[Any], layers: tuple[int, ...]) -> tuple[SpanGrid, dict[int, Tensor]]:
    """PFS of every head of these layers, for documents of one length `[B, T]`."""
    recorder = HeadRecorder(SpanGrid([ids.shape[1]] * len(ids), engine.config), layers, engine.span_focus)
    engine.run(list(ids), recorder)
    return recorder.grid, recorder.pfs


def setting_areas(windows: Sequence[LabelledWindow], scores: Floats) -> dict[tuple[Setting, str], float]:
    """Area under the curve of each setting and domain that has both natural windows and splices."""
    groups: dict[tuple[int, str], dict[int, list[float]]] = {}
    for window, score in zip(windows, scores.tolist(), strict=True):
        groups.setdefault((len(window.ids), window.domain), {}).setdefault(window.pieces, []).append(score)
    return {
        ((length, k), domain): area_under_curve(kinds[1], spliced)
        for (length, domain), kinds in sorted(groups.items())
        for k, spliced in sorted(kinds.items())
        if k != 1 and 1 in kinds
    }


def mean_area(areas: dict[tuple[Setting, str], float]) -> float:
    """Mean over settings of the mean over domains."""
    by_setting = mean_by(areas, 0)
    return float(np.mean(list(by_setting.values()))) if by_setting else float("nan")


def mean_by(areas: dict[tuple[Setting, str], float], part: int) -> dict[Any, float]:
    """Means by setting (`part` 0) or by domain (1)."""
    groups: dict[Any, list[float]] = {}
    for key, area in areas.items():
        groups.setdefault(key[part], []).append(area)
    return {name: float(np.mean(values)) for name, values in groups.items()}


class FocusTable:
    """PFS of every head for labelled windows, and the score of any set of heads from it.

    Args:
        engine (`Engine`): a loaded calculator.
        windows (sequence of [`LabelledWindow`]): of any lengths.
        layers (sequence of `int`, *optional*): read these layers only; by default all with full attention.
        progress (`bool`, *optional*, defaults to `False`): show a bar.
    """

    def __init__(
        self,
        engine: Engine,
        windows: Sequence[LabelledWindow],
        layers: Sequence[int] | None = None,
        progress: bool = False,
    ) -> None:
        self.windows = list(windows)
        self.layers = engine.plan.scored if layers is None else tuple(sorted(set(layers)))
        missing = sorted(set(self.layers) - set(engine.plan.scored))
        if missing or not self.layers:
            raise ConfigError(
                f"layers must name some of the layers with full attention, {engine.plan.scored}, got {self.layers}"
            )
        # by length: rows of `windows`, their grid, and layer -> [B, H, R, S]
        self._blocks: list[tuple[Ints, SpanGrid, dict[int, Tensor]]] = []
        cpu = engine.model.device.type == "cpu"
        with tqdm(total=len(self.windows), desc="Reading heads", unit="window", disable=not progress) as bar:
            for length in sorted({len(window.ids) for window in self.windows}):
                rows = np.flatnonzero([len(window.ids) == length for window in self.windows])
                size = 1 if cpu else max(1, DEVICE_TOKENS // length)
                parts = []
                for start in range(0, len(rows), size):
                    batch = rows[start : start + size]
                    parts.append(head_focus(engine, np.stack([self.windows[row].ids for row in batch]), self.layers)[1])
                    bar.update(len(batch))
                pfs = {layer: torch.cat([part[layer] for part in parts]) for layer in parts[0]}
                self._blocks.append((rows, SpanGrid([length] * len(rows), engine.config), pfs))
        self.heads: tuple[Head, ...] = tuple(
            (layer, head) for layer in self.layers for head in range(engine.plan.num_heads[layer])
        )

    def scores(self, heads: Iterable[Head], ablation: Ablation | None) -> Floats:
        """The document score with these heads and factors, for every window, as [`LadmScorer`] computes it."""
        layers: dict[int, list[int]] = {}
        for layer, head in heads:
            layers.setdefault(layer, []).append(head)
        result = np.empty(len(self.windows))
        for rows, grid, pfs in self._blocks:
            parts = [
                contextual_dependency_score(pfs[layer][:, index].double().mean(1), grid, ablation)
                for layer, index in layers.items()
            ]
            result[rows] = torch.stack(parts).mean(0).numpy()
        return result

    def by_head(self, ablation: Ablation | None) -> dict[Head, Floats]:
        """The score with each head alone."""
        return {head: self.scores([head], ablation) for head in self.heads}


def choose_heads(
    table: FocusTable, rows: Bools, max_heads: int, ablations: Sequence[Ablation | None] = ABLATIONS
) -> tuple[tuple[Head, ...], Ablation | None, float]:
    """Greedy choice on the windows of `rows`: the best head, then whichever raises the area under the curve most.

    Returns:
        The heads, the ablation, and the area under the curve on the same windows (too good by the choice).
    """
    windows = [window for window, used in zip(table.windows, rows, strict=True) if used]
    best: tuple[tuple[Head, ...], Ablation | None, float] | None = None
    for ablation in ablations:
        alone = {
            head: mean_area(setting_areas(windows, scores[rows])) for head, scores in table.by_head(ablation).items()
        }
        ranked = sorted(alone, key=lambda head: -alone[head])[:CANDIDATES]
        chosen: tuple[Head, ...] = (ranked[0],)
        area = alone[ranked[0]]
        while len(chosen) < max_heads:
            trials = {
                head: mean_area(setting_areas(windows, table.scores((*chosen, head), ablation)[rows]))
                for head in ranked
                if head not in chosen
            }
            head = max(trials, key=lambda head: trials[head], default=None)
            if head is None or trials[head] < area + MIN_GAIN:
                break
            chosen, area = (*chosen, head), trials[head]
        if best is None or area > best[2]:
            best = (tuple(sorted(chosen)), ablation, area)
    assert best is not None
    return best


def calibrate(
    model: str | Path,
    documents: Sequence[TokenizedDocument],
    *,
    settings: Sequence[Setting] = ((8192, 2), (8192, 4), (8192, 8), (8192, 0), (16384, 2), (16384, 8)),
    config: LadmConfig | None = None,
    max_heads: int = 4,
    layers: Sequence[int] | None = None,
    folds: int = 2,
    per_domain: int = 24,
    seed: int = 0,
    device: str | None = None,
    progress: bool = False,
) -> Calibration:
    """Chooses the heads and factors of a calculator.

    Args:
        model (`str` or path): the calculator; its own configuration, if any, plays no part.
        documents (sequence of [`TokenizedDocument`]): with the calculator's tokenizer; best never seen in training.
        settings (sequence of `(T, k)`): windows and splices; `k = 0` joins short documents.
        config ([`LadmConfig`], *optional*): the geometry. Its heads and ablation are what is chosen.
        max_heads (`int`, *optional*, defaults to `4`): most heads.
        layers (sequence of `int`, *optional*): choose from the heads of these layers only. Scoring stops at the last
            layer that counts, so an earlier one is cheaper.
        folds (`int`, *optional*, defaults to `2`): parts that sources are divided into for the test.
        per_domain (`int`, *optional*, defaults to `24`): most windows of each kind, domain, setting and fold.
        seed (`int`, *optional*, defaults to `0`): of windows and folds.
        device (`str`, *optional*): defaults to the GPU if there is one.
        progress (`bool`, *optional*, defaults to `False`): show a bar.

    Raises:
        ConfigError: an option is out of range.
        InputError: the documents give no setting both natural windows and splices in at least two folds.
    """
    if max_heads < 1 or folds < 2 or per_domain < 2:
        raise ConfigError(
            "calibration needs max_heads >= 1, folds >= 2 and per_domain >= 2, got "
            f"max_heads={max_heads}, folds={folds}, per_domain={per_domain}"
        )
    config = replace((config or LadmConfig()).over(LadmConfig.paper()), heads=None, ablation=None, weights=None)
    units = source_units(documents)
    fold_of = _folds(documents, units, folds, seed)
    windows: list[LabelledWindow] = []
    parts: list[int] = []
    for fold in range(folds):
        mine = [document for document, part in zip(documents, fold_of, strict=True) if part == fold]
        for length in sorted({length for length, _ in settings}):
            pieces = [k for size, k in settings if size == length]
            made = labelled_windows(mine, length, pieces, per_domain, seed)
            windows += made
            parts += [fold] * len(made)
    fold_of_window = np.array(parts)
    usable = [
        part
        for part in range(folds)
        if setting_areas([w for w, p in zip(windows, parts, strict=True) if p == part], np.zeros(parts.count(part)))
    ]
    if len(usable) < 2:
        raise InputError(
            f"{len(documents)} documents are too few to calibrate on: in at least 2 of {folds} folds, one domain must "
            f"have two windows of {min(length for length, _ in settings)} tokens and as many documents to splice. "
            "Give more or longer documents, or shorter windows"
        )
    engine = Engine(resolve(model), config, _dtype(device), device or _default_device(), "auto", None)
    table = FocusTable(engine, windows, layers, progress)
    found: dict[tuple[Setting, str], list[float]] = {}
    plain: dict[tuple[Setting, str], list[float]] = {}
    paper = table.scores(table.heads, None)
    for part in usable:
        heads, ablation, _ = choose_heads(table, fold_of_window != part, max_heads)
        test = [window for window, p in zip(windows, parts, strict=True) if p == part]
        for store, scores in ((found, table.scores(heads, ablation)), (plain, paper)):
            for key, area in setting_areas(test, scores[fold_of_window == part]).items():
                store.setdefault(key, []).append(area)
    means = {key: float(np.mean(values)) for key, values in found.items()}
    heads, ablation, _ = choose_heads(table, np.ones(len(windows), dtype=bool), max_heads)
    alone = {
        f"{layer}.{head}": mean_area(setting_areas(windows, scores))
        for (layer, head), scores in table.by_head(ablation).items()
    }
    return Calibration(
        config=replace(config, heads=heads, ablation=ablation),
        auc=mean_area(means),
        settings={f"{length} x {k}" if k else f"{length} joined": v for (length, k), v in mean_by(means, 0).items()},
        domains=mean_by(means, 1),
        uncalibrated=mean_area({key: float(np.mean(values)) for key, values in plain.items()}),
        heads=alone,
        windows=len(windows),
        documents=len(documents),
    )


def write_calibration(model: str | Path, calibration: Calibration) -> Path:
    """Writes `ladm_config.json` into the calculator's folder: the configuration, and the figures that justify it.

    Raises:
        ConfigError: the calculator is not a local folder.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"{str(model)!r} is not a local folder: download the calculator, then calibrate the copy")
    default = LadmConfig.paper().to_dict()
    values = {key: value for key, value in calibration.config.to_dict().items() if value != default.get(key)}
    path = folder / CONFIG_FILE
    path.write_text(json.dumps({**values, "calibration": calibration.record()}, indent=1) + "\n", encoding="utf-8")
    return path


def _folds(documents: Sequence[TokenizedDocument], units: list[str], folds: int, seed: int) -> list[int]:
    """Fold of each document: the units of a domain are dealt out in turn, largest first, ties by name."""
    sizes: dict[tuple[str, str], int] = {}
    for document, unit in zip(documents, units, strict=True):
        sizes[document.domain, unit] = sizes.get((document.domain, unit), 0) + len(document.ids)
    dealt: dict[tuple[str, str], int] = {}
    turns: dict[str, int] = {}
    order = sorted(sizes, key=lambda unit: (-sizes[unit], xxhash.xxh3_64_intdigest(unit[1].encode(), seed=seed)))
    for domain, unit in order:
        turns[domain] = turns.get(domain, -1) + 1
        dealt[domain, unit] = turns[domain] % folds
    return [dealt[document.domain, unit] for document, unit in zip(documents, units, strict=True)]


def _default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _dtype(device: str | None) -> str:
    return "float32" if (device or _default_device()) == "cpu" else "float16"
