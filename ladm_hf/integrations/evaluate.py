"""`Ladm`: the metric behind `evaluate.load("ladm")`, LADM scores of texts and their mean.

    documents -> shares of the ranks, balanced by characters -> scores -> gathered, in input order, on every rank

Under `accelerate launch` or `torchrun` every rank calls `compute` with the same documents and gets the same result.
"""

from __future__ import annotations

import heapq
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import datasets
import evaluate
import numpy as np
import torch
import xxhash

from ladm_hf.config import LadmConfig
from ladm_hf.data.score_columns import checked_signals
from ladm_hf.errors import ConfigError, InputError
from ladm_hf.ranks import Ranks, launched
from ladm_hf.scoring.results import DocumentScore
from ladm_hf.scoring.scorer import SHORT_CONTEXT, LadmScorer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHARS_PER_TOKEN = 4

_DESCRIPTION = """\
LADM (Long-context data selection by an Attention-based Dependency Measurement) scores a long document by how much its
later spans attend to distant earlier spans, as seen by a small language model. A higher score means more long-range
dependency.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list` of `str`):
        The documents. `None`, blank and too short documents are allowed: they get a status instead of a score.
    model (`str`, path, [`LadmScorer`] or `PreTrainedModel`, *optional*):
        The calculator: the bundled `"ladm-nano"`, a local folder, a Hub id, a live model, or a ready scorer. Defaults
        to `$LADM_MODEL`, else `"ladm-nano"`. It stays loaded until a call asks for another.
    revision (`str`, *optional*):
        Branch, tag or commit of a Hub id.
    config ([`LadmConfig`] or `dict`, *optional*):
        What changes the score. Defaults to the calculator's own.
    backend, dtype, device, max_batch_tokens, signals, short_context (*optional*):
        As for [`LadmScorer`].
Returns:
    ladm_scores (`list` of `float`): score of each document, NaN unless its status is `"ok"`.
    mean_ladm_score (`float`): mean over the documents that have a score, NaN if none has.
    num_scored (`int`): how many have one.
    statuses (`list` of `str`): `"ok"`, `"too_short"`, `"empty"`, `"null"` or `"error: ..."`.
    ladm_<name> (`list` of `float`): each of the signals that were asked for.
Examples:
    >>> import heapq, inspect, evaluate
    >>> ladm = evaluate.load("ladm")
    >>> results = ladm.compute(predictions=[inspect.getsource(heapq), "too short"])
    >>> results["num_scored"], results["statuses"]
    (1, ['ok', 'too_short'])
"""

_CITATION = """\
@inproceedings{chen-etal-2025-ladm,
    title = {{LADM}: Long-context Training Data Selection with Attention-based Dependency Measurement for {LLM}s},
    author = {Chen, Jianghao and Wu, Junhong and Xu, Yangyifan and Zhang, Jiajun},
    booktitle = {Proceedings of the 63rd Annual Meeting of the Association for Computational Linguistics},
    year = {2025},
    url = {https://arxiv.org/abs/2503.02502}
}
"""


class Ladm(evaluate.Metric):  # type: ignore[misc]
    """Long-range dependency of documents; the options of `compute` are in its docstring.

    Args:
        experiment_id, num_process, process_id, keep_in_memory, ...: as for `evaluate.load`. With `num_process` above 1
            process 0 scores the documents of all of them and the others get `None`.
    """

    def __init__(self, *args: Any, experiment_id: str | None = None, num_process: int = 1, **kwargs: Any) -> None:
        # The ranks of a launch share a cache folder: a file each spares them waiting for one another's lock.
        launch = launched()
        if num_process == 1 and launch.world > 1:
            experiment_id = f"{experiment_id or 'default_experiment'}-rank{launch.rank}"
        super().__init__(*args, experiment_id=experiment_id, num_process=num_process, **kwargs)
        self._scorer: LadmScorer | None = None
        self._scorer_options: dict[str, Any] = {}

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            # large: the texts of one call may pass the 2 GB that offsets of 32 bits can address
            features=datasets.Features({"predictions": datasets.Value("large_string")}),
            reference_urls=["https://arxiv.org/abs/2503.02502"],
        )

    def __getstate__(self) -> dict[str, Any]:
        # spent locks, which evaluate keeps after a call and which cannot be pickled
        return self.__dict__ | {"filelocks": None, "file_paths": None}

    def compute(self, *, predictions: Any = None, **kwargs: Any) -> dict[str, Any] | None:
        """Scores the documents given here, or those added before."""
        if predictions is None and self.writer is None:
            if self.num_process == 1:
                raise InputError("there is no document to score: give predictions, or add documents first")
            # the other processes wait for the file of this one
            predictions = []
        result: dict[str, Any] | None = super().compute(predictions=predictions, **kwargs)
        return result

    def add(self, *, prediction: Any = None, **kwargs: Any) -> None:
        """Adds one document; `None` is a document without a score."""
        # evaluate.combine gives the document under the name of the feature
        document = kwargs.pop("predictions", prediction)
        super().add(prediction=_checked_document(document, 0), **kwargs)

    def add_batch(self, *, predictions: Any = None, **kwargs: Any) -> None:
        """Adds documents."""
        if isinstance(predictions, (str, bytes)) or not hasattr(predictions, "__len__"):
            raise InputError(f"predictions must be a list of texts, found {type(predictions).__name__}")
        documents = [_checked_document(document, index) for index, document in enumerate(predictions)]
        super().add_batch(predictions=documents, **kwargs)

    def _compute(
        self,
        predictions: Sequence[str | None],
        model: str | os.PathLike[str] | PreTrainedModel | LadmScorer | None = None,
        revision: str | None = None,
        config: LadmConfig | Mapping[str, Any] | None = None,
        backend: str = "auto",
        dtype: str | torch.dtype = "auto",
        device: str | torch.device | None = None,
        max_batch_tokens: int | None = None,
        signals: str | Iterable[str] = (),
        short_context: int = SHORT_CONTEXT,
    ) -> dict[str, Any]:
        documents = list(predictions)
        if not documents:
            raise InputError("there is no document to score: predictions is empty")
        if isinstance(config, Mapping):
            config = LadmConfig.from_dict(config)
        options = {
            "revision": revision, "config": config, "backend": backend, "dtype": dtype, "device": device,
            "max_batch_tokens": max_batch_tokens, "signals": checked_signals(signals), "short_context": short_context,
        }  # fmt: skip
        scorer = self._scorer_for(model, options)
        scores = score_distributed(scorer, documents) if self.num_process == 1 else scorer.score_texts(documents)
        found = [score.score for score in scores if score.status == "ok"]
        return {
            "ladm_scores": [score.score for score in scores],
            "mean_ladm_score": float(np.mean(found)) if found else float("nan"),
            "num_scored": len(found),
            "statuses": [score.status for score in scores],
            **{f"ladm_{name}": [score.signals[name] for score in scores] for name in scorer.signals},
        }

    def _scorer_for(self, model: Any, options: dict[str, Any]) -> LadmScorer:
        """The scorer that was asked for: the last one, with its loaded model, if nothing has changed."""
        if isinstance(model, LadmScorer):
            given = [name for name, value in options.items() if value not in (None, "auto", (), SHORT_CONTEXT)]
            if given:
                raise ConfigError(f"{given[0]} goes into the LadmScorer that is given as model, not beside it")
            return model
        asked = {"model": model} | options
        if self._scorer is None or self._scorer_options != asked:
            # the old model goes before the new one is loaded
            self._scorer = None
            self._scorer, self._scorer_options = LadmScorer(**asked), asked
        return self._scorer


class _Share(NamedTuple):
    """What one rank scored: a hash of all documents, which of them it took, and their scores."""

    digest: str
    indices: list[int]
    scores: list[DocumentScore]


def score_distributed(scorer: LadmScorer, documents: Sequence[str | None]) -> list[DocumentScore]:
    """Scores documents over the ranks of the launch: each rank calls it with all of them and gets all the scores.

    Args:
        scorer ([`LadmScorer`]):
            The same on every rank.
        documents (sequence of `str`):
            The same on every rank, in the same order.

    Returns:
        One [`DocumentScore`] for each document, in order, the same on every rank.

    Raises:
        BackendError: the processes of the launch do not see each other.
        InputError: the ranks were given different documents.
        LadmError: another rank failed.
    """
    ranks = Ranks()
    if ranks.world == 1:
        return scorer.score_texts(documents)

    def score_share() -> _Share:
        indices = split_by_size(_sizes(documents, scorer.config), ranks.world)[ranks.index]
        progress = None if ranks.is_main else False
        scores = scorer.score_texts([documents[i] for i in indices], rank=ranks.local, progress=progress)
        return _Share(_digest(documents), indices, scores)

    shares = ranks.gather(score_share)
    for rank, share in enumerate(shares):
        if share.digest != shares[0].digest:
            raise InputError(
                f"rank {rank} was given other documents than rank 0. Each rank must call compute with the same list: "
                "it is split inside. For a share on each rank, load the metric with num_process= and process_id=."
            )
    merged = {i: score for share in shares for i, score in zip(share.indices, share.scores, strict=True)}
    return [merged[i] for i in range(len(documents))]


def _sizes(documents: Sequence[str | None], config: LadmConfig) -> list[int]:
    """Characters that will be scored, about: the tokens are not known yet."""
    most = config.max_length * CHARS_PER_TOKEN if config.overflow == "truncate" else sys.maxsize
    return [min(len(document or ""), most) for document in documents]


def split_by_size(sizes: Sequence[int], parts: int) -> list[list[int]]:
    """Indices of each part, so that the parts' sums of sizes are close: the largest goes to the lightest part first."""
    shares: list[list[int]] = [[] for _ in range(parts)]
    loads = [(0, part) for part in range(parts)]
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        load, part = heapq.heappop(loads)
        shares[part].append(i)
        heapq.heappush(loads, (load + sizes[i], part))
    return [sorted(share) for share in shares]


def _checked_document(document: Any, index: int) -> str | None:
    """A document that evaluate can store."""
    if document is None:
        return None
    if not isinstance(document, str):
        raise InputError(f"predictions[{index}] must be a text or None, found {type(document).__name__}")
    try:
        document.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"predictions[{index}] is not valid Unicode ({error.reason} at character {error.start}): "
            "decode it with errors='replace', or leave it out"
        ) from None
    return document


def _digest(documents: Sequence[str | None]) -> str:
    digest = xxhash.xxh3_128()
    for document in documents:
        digest.update(b"\0" if document is None else f"{len(document)}:".encode() + document.encode())
    return digest.hexdigest()
