"""Best-fit packing of documents into windows, by TRL (`bfd_split`: longer documents are cut, no token is lost)."""

from __future__ import annotations

import numpy as np

from .store import Ints, Stream, Windows


def packed(stream: Stream, rows: Ints, length: int) -> Windows:
    """Windows of at most `length` tokens over some documents of a stream.

    TRL packs the places of the tokens in the stream in place of the tokens: what comes back says which are where.
    Documents as long as a window are the windows.
    """
    if (stream.lengths[rows] == length).all():
        return Windows(stream.offsets[rows], stream.lengths[rows], np.arange(len(rows) + 1))
    from datasets import Dataset, Features, Sequence, Value
    from trl import pack_dataset

    places = [np.arange(stream.offsets[row], stream.offsets[row + 1]) for row in rows]
    features = Features({"input_ids": Sequence(Value("int64"))})
    dataset = Dataset.from_dict({"input_ids": places}, features=features)
    result = pack_dataset(
        dataset, length, "bfd_split", {"batch_size": max(len(places), 1), "load_from_cache_file": False}
    )
    starts: list[int] = []
    lengths: list[int] = []
    first = [0]
    for window in result.with_format("numpy"):
        sizes = np.asarray(window["seq_lengths"])
        starts += np.asarray(window["input_ids"])[np.cumsum(sizes) - sizes].tolist()
        lengths += sizes.tolist()
        first.append(len(lengths))
    return Windows(*(np.array(values, dtype=np.int64) for values in (starts, lengths, first)))
