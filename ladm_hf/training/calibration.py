"""Calibration: which heads of a calculator count, how much, and with which factors of the score.

    documents -> natural windows and their contrasts -> CDS of every head -> a few heads by search -> ladm_config.json

Heads are chosen by what a score must do, on one half of the sources: rank natural windows above splices, degenerate
text, their own parts shuffled and minimal pairs (see `ladm_hf.training.contrasts`; the objective is that of
`ladm_hf.training.search`). What the choice is worth is read on the other half, which no choice has seen, beside the
paper's score over all heads and the best single head.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash

from ladm_hf.calculators.calculator import resolve
from ladm_hf.calculators.files import CONFIG_FILE
from ladm_hf.config import Ablation, LadmConfig
from ladm_hf.errors import ConfigError, InputError
from ladm_hf.scoring.engine import Engine
from ladm_hf.scoring.precision import auto_dtype
from ladm_hf.training.contrasts import NEEDED, Contrast, comparisons, contrasts, source_draws
from ladm_hf.training.documents import DEGENERATE, TokenizedDocument, source_units
from ladm_hf.training.figures import Row, figure_rows, markdown
from ladm_hf.training.heads import HeadScores, read_heads
from ladm_hf.training.search import LOWEST_SHARE, Choice, Search
from ladm_hf.version import __version__

LENGTHS = (4096, 8192)
FACTORS: tuple[Ablation | None, ...] = ("no_std", None)
OBJECTIVE = (
    f"{1 - LOWEST_SHARE:g} x mean over questions of the mean over their kinds + {LOWEST_SHARE:g} x the lowest kind"
)
# Draws of the bootstrap that says whether a gain is more than noise.
DRAWS = 200


@dataclass(frozen=True)
class Calibration:
    """The choice and what it is worth.

    Attributes:
        config ([`LadmConfig`]): the calculator's own configuration from now on.
        best_head (`tuple[int, int]`): the best single head, as `(layer, head)`.
        rows (`tuple[Row, ...]`): the objective, then each question with its kinds.
        heads (`dict[str, float]`): the objective of every head by itself, `"layer.head"`, with the factors chosen, on
            the half that the choice was made on.
        data (`dict`): documents, sources, domains, lengths, windows, seed, dtype and a hash of
            the documents.
        absent (`dict[str, str]`): kinds that these documents do not allow, with the reason.
    """

    config: LadmConfig
    best_head: tuple[int, int]
    rows: tuple[Row, ...]
    heads: dict[str, float]
    data: dict[str, Any]
    absent: dict[str, str]

    def row(self, question: str = "", kind: str = "") -> Row:
        """The row of a kind, of a question as a whole, or of the objective.

        Raises:
            KeyError: there is none.
        """
        for row in self.rows:
            if (row.question, row.kind) == (question, kind):
                return row
        raise KeyError((question, kind))

    def table(self) -> str:
        """The rows as a table of Markdown, with 95 % intervals."""
        return markdown(self.rows, self.best_head)

    def record(self) -> dict[str, Any]:
        """The `calibration` entry of `ladm_config.json`, for people: `LadmConfig` does not read it."""
        ranked = sorted(self.heads.items(), key=lambda item: -item[1])
        values = {
            "ladm_hf": __version__,
            "objective": OBJECTIVE,
            "chosen_on": self.data,
            "best_head": list(self.best_head),
            "figures": [asdict(row) for row in self.rows],
            "absent": self.absent,
            "objective_by_head": dict(ranked),
        }
        return {name: _rounded(value) for name, value in values.items()}


def calibrate(
    model: str | Path,
    documents: Sequence[TokenizedDocument],
    *,
    lengths: Sequence[int] | None = None,
    windows: int = 24,
    max_heads: int = 4,
    layers: Sequence[int] | None = None,
    config: LadmConfig | None = None,
    seed: int = 0,
    dtype: str = "auto",
    device: str | None = None,
    progress: bool = False,
) -> Calibration:
    """Chooses heads, weights and factors of a calculator.

    A present choice of the calculator's, if any, is one of the starts of the search and stays unless the best choice
    found beats it, on the half that the choice is made on, by more than twice the standard error of the difference.

    Args:
        model (`str` or path): the calculator: a folder, a Hub id or a bundled name.
        documents (sequence of [`TokenizedDocument`]): with the calculator's tokenizer; best never seen in training.
            Those of kind `"degenerate"` are examples of what should score low.
        lengths (sequence of `int`, *optional*): tokens of the windows; 4,096 and 8,192, as far as the model declares so
            many positions.
        windows (`int`, *optional*, defaults to `24`): about so many natural windows of each length and half, as many of
            each kind of splice, and an eighth of each sort of degenerate text.
        max_heads (`int`, *optional*, defaults to `4`): most heads.
        layers (sequence of `int`, *optional*): choose from the heads of these layers only. Scoring stops at the last
            layer that counts, so an earlier one is cheaper.
        config ([`LadmConfig`], *optional*): the geometry. Its heads, weights and ablation are what is chosen.
        seed (`int`, *optional*, defaults to `0`): of windows and halves.
        dtype (`str`, *optional*, defaults to `"auto"`): of the weights, as `LadmScorer` takes it.
        device (`str`, *optional*): defaults to the GPU if there is one.
        progress (`bool`, *optional*, defaults to `False`): show a bar.

    Raises:
        ConfigError: an option is out of range.
        InputError: the documents give too few natural windows in one of the halves.
    """
    if max_heads < 1 or windows < 2:
        raise ConfigError(f"calibration needs max_heads >= 1 and windows >= 2, got {max_heads} and {windows}")
    calculator = resolve(model)
    geometry = (config or LadmConfig()).over(LadmConfig.paper())
    geometry = replace(geometry, heads=None, ablation=None, weights=None)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = auto_dtype(calculator, device) if dtype == "auto" else dtype
    engine = Engine(calculator, geometry, dtype, device, "auto", None)
    limit = getattr(engine.model.config.get_text_config(), "max_position_embeddings", None) or geometry.max_length
    sizes = _lengths(lengths, limit, geometry)
    if config is None or "max_length" not in config.given:
        geometry = replace(geometry, max_length=min(geometry.max_length, max(limit, *sizes)))
    made: list[Contrast] = []
    compared = []
    for number, half in enumerate(_halves(documents, seed)):
        start = len(made)
        for length in sizes:
            found = contrasts(half, engine.tokenizer, length, windows, 2 * seed + number)
            made += [replace(w, base=None if w.base is None else w.base + len(made)) for w in found]
        compared.append(comparisons(made, range(start, len(made))))
    # what one half lacks cannot be both chosen by and reported
    kinds = {c.kind for c in compared[0]} & {c.kind for c in compared[1]}
    units = [{made[row].unit for c in half for row in c.natural.tolist()} for half in compared]
    if min(map(len, units)) < 2:
        raise InputError(
            f"{len(documents)} documents are too few to calibrate on: in each half of the sources one domain must "
            f"give windows of {min(sizes):,} tokens of two sources. Give more or longer documents, or shorter lengths"
        )
    choosing, report = ([c for c in half if c.kind in kinds] for half in compared)
    questions = {window.kind: window.question for window in made if window.kind in kinds}
    read = read_heads(engine, [window.ids for window in made], layers, progress)
    search = Search(read, choosing, questions, source_draws(made, choosing, DRAWS))
    choice, single = search.choose(max_heads, FACTORS, _own_choice(calculator.config, read, search))
    scores = np.stack([choice.scores(read), read.all_heads[None], single.scores(read)], axis=1)
    heads = tuple(read.heads[place] for place in choice.weights)
    alone = search.alone(choice.ablation)
    return Calibration(
        config=replace(geometry, heads=heads, weights=tuple(choice.weights.values()), ablation=choice.ablation),
        best_head=read.heads[next(iter(single.weights))],
        rows=figure_rows(made, scores, choosing, report, questions),
        heads={f"{layer}.{head}": float(value) for (layer, head), value in zip(read.heads, alone, strict=True)},
        data={**_described(documents), "lengths": list(sizes), "windows": len(made), "seed": seed, "dtype": dtype},
        absent={kind: need for kind, need in NEEDED.items() if kind not in kinds},
    )


def write_calibration(model: str | Path, calibration: Calibration) -> Path:
    """Writes `ladm_config.json` into a folder: the configuration, and the figures that justify it.

    Args:
        model (`str` or path): folder of the calculator, or one to keep the file for `LadmConfig.from_json_file`.

    Raises:
        ConfigError: there is no such folder.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"{str(model)!r} is not a local folder: give one to write {CONFIG_FILE} into")
    default = LadmConfig.paper().to_dict()
    values = {key: value for key, value in calibration.config.to_dict().items() if value != default.get(key)}
    path = folder / CONFIG_FILE
    path.write_text(json.dumps({**values, "calibration": calibration.record()}, indent=1) + "\n", encoding="utf-8")
    return path


def _lengths(lengths: Sequence[int] | None, limit: int, geometry: LadmConfig) -> tuple[int, ...]:
    shortest = geometry.min_tokens
    if lengths is None:
        if limit < shortest:
            raise ConfigError(
                f"the model declares {limit:,} positions, fewer than the {shortest:,} tokens that a score needs with "
                f"span_length={geometry.span_length}: give a smaller span_length"
            )
        return tuple(length for length in LENGTHS if length <= limit) or (limit,)
    chosen = tuple(sorted(set(lengths)))
    if not chosen or chosen[0] < shortest:
        raise ConfigError(f"lengths must be at least {shortest:,} tokens with this geometry, got {list(lengths)}")
    return chosen


def _halves(documents: Sequence[TokenizedDocument], seed: int) -> list[list[TokenizedDocument]]:
    """The sources of every domain dealt out in turn, largest first; degenerate documents by themselves."""
    keys = [
        (document.kind == DEGENERATE, document.domain, unit)
        for document, unit in zip(documents, source_units(documents), strict=True)
    ]
    sizes: dict[tuple[bool, str, str], int] = {}
    for document, key in zip(documents, keys, strict=True):
        sizes[key] = sizes.get(key, 0) + len(document.ids)
    order = sorted(sizes, key=lambda key: (-sizes[key], xxhash.xxh3_64_intdigest(key[2].encode(), seed=seed)))
    turns: dict[tuple[bool, str], int] = {}
    halves: dict[tuple[bool, str, str], int] = {}
    for key in order:
        turns[key[:2]] = turns.get(key[:2], -1) + 1
        halves[key] = turns[key[:2]] % 2
    return [[d for d, key in zip(documents, keys, strict=True) if halves[key] == half] for half in (0, 1)]


def _own_choice(config: LadmConfig, read: HeadScores, search: Search) -> Choice | None:
    """The present choice of a calculator, where it is a weighted one of the heads read."""
    places = {head: place for place, head in enumerate(read.heads)}
    if config.weights is None or config.heads is None or not set(config.heads) <= set(places):
        return None
    weights = {places[head]: weight for head, weight in zip(config.heads, config.weights, strict=True)}
    own = Choice(weights, config.ablation, 0.0)
    return replace(own, objective=float(search.objectives(own.scores(read)[:, None])[0]))


def _described(documents: Sequence[TokenizedDocument]) -> dict[str, Any]:
    """What the documents of a calibration were, and a hash by which they are known again."""
    natural = [document for document in documents if document.kind != DEGENERATE]
    hashes = sorted(xxhash.xxh3_64_hexdigest(np.ascontiguousarray(document.ids).tobytes()) for document in documents)
    return {
        "documents": len(natural),
        "degenerate_documents": len(documents) - len(natural),
        "sources": len({(document.domain, document.source) for document in documents}),
        "domains": sorted({document.domain for document in natural}),
        "content": xxhash.xxh3_64_hexdigest("".join(hashes).encode()),
    }


def _rounded(value: Any) -> Any:
    """Numbers to four places, and null for what is not known, as JSON has it."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    if isinstance(value, float):
        return round(value, 4) if np.isfinite(value) else None
    return value
