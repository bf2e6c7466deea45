"""The files that the stages hand on: token ids end to end, windows into them, and pieces small enough to move.

A stream is `NAME.u16`, the tokens of its documents one after another, with `NAME.offsets.npy`, `[N + 1]`, where each
begins. Windows name stretches of one stream, so that a selection is moved as a few thousand numbers.
"""

from __future__ import annotations

import hashlib
import json
import lzma
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
# Token ids are pairs of bytes, of which the second says little.
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 0, "lp": 1, "pb": 1, "dict_size": 1 << 25}]


@dataclass(frozen=True)
class Stream:
    """Tokens of documents end to end, memory-mapped where they were read from files."""

    tokens: npt.NDArray[Any]
    offsets: Ints

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> npt.NDArray[Any]:
        return self.tokens[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> Ints:
        return np.diff(self.offsets)

    @staticmethod
    def write(path: Path, documents: Iterable[Sequence[int]]) -> Stream:
        lengths = []
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path.with_suffix(".part"), "wb") as file:
            for ids in documents:
                file.write(np.asarray(ids, dtype=np.uint16).tobytes())
                lengths.append(len(ids))
        np.save(path.with_suffix(".offsets.npy"), np.cumsum([0, *lengths], dtype=np.int64))
        path.with_suffix(".part").rename(path.with_suffix(".u16"))
        return Stream.read(path)

    @staticmethod
    def read(path: Path) -> Stream:
        tokens = np.memmap(path.with_suffix(".u16"), dtype=np.uint16, mode="r")
        return Stream(tokens, np.load(path.with_suffix(".offsets.npy")))


@dataclass(frozen=True)
class Windows:
    """Windows of one stream, each of one or more stretches of tokens that do not see each other.

    Attributes:
        starts (`int64` array `[S]`): first token of each stretch in the stream.
        lengths (`int64` array `[S]`): its tokens.
        first (`int64` array `[W + 1]`): the first stretch of each window.
    """

    starts: Ints
    lengths: Ints
    first: Ints

    def __len__(self) -> int:
        return len(self.first) - 1

    def take(self, rows: Ints) -> Windows:
        parts = [np.arange(self.first[row], self.first[row + 1]) for row in rows]
        chosen = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
        first = np.cumsum([0, *(len(part) for part in parts)], dtype=np.int64)
        return Windows(self.starts[chosen], self.lengths[chosen], first)

    def stretches(self, row: int, stream: Stream) -> list[npt.NDArray[np.uint16]]:
        span = range(self.first[row], self.first[row + 1])
        return [stream.tokens[self.starts[i] : self.starts[i] + self.lengths[i]] for i in span]

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, starts=self.starts, lengths=self.lengths, first=self.first)

    @staticmethod
    def load(path: Path) -> Windows:
        with np.load(path) as data:
            return Windows(data["starts"], data["lengths"], data["first"])


def write_json(path: Path, value: Any) -> None:
    """Writes at once or not at all, so that a file that is there is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(json.dumps(value, indent=1) + "\n")
    temporary.rename(path)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def generator(*seed: Any) -> np.random.Generator:
    """A generator of its own for each purpose."""
    return np.random.default_rng(np.frombuffer(hashlib.sha256(repr(seed).encode()).digest(), dtype=np.uint32))


def pack(work: Path, names: Sequence[str], folder: Path, piece_bytes: int) -> list[Path]:
    """Compresses files of `work` into pieces of at most about `piece_bytes`, to be moved to another machine."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = []
    for name in names:
        data = (work / name).stat().st_size
        # token ids compress to about two fifths
        step = piece_bytes * 2
        for start in range(0, max(data, 1), step):
            jobs.append((work / name, start, step, folder / f"{name.replace('/', '--')}.{start}.xz"))
    with ProcessPoolExecutor(2) as pool:
        return list(pool.map(_pack_piece, jobs))


def _pack_piece(job: tuple[Path, int, int, Path]) -> Path:
    source, start, size, target = job
    with open(source, "rb") as file:
        file.seek(start)
        target.write_bytes(lzma.compress(file.read(size), filters=_FILTERS))
    return target


def unpack(folder: Path, work: Path) -> None:
    """Puts the pieces found in a folder back where they came from; those already there are left."""
    pieces = sorted(folder.glob("*.xz"))
    with ProcessPoolExecutor() as pool:
        list(pool.map(_unpack_piece, pieces, [work] * len(pieces)))


def _unpack_piece(piece: Path, work: Path) -> None:
    name, start, _ = piece.name.rsplit(".", 2)
    target = work / name.replace("--", "/")
    target.parent.mkdir(parents=True, exist_ok=True)
    data = lzma.decompress(piece.read_bytes())
    target.touch()
    with open(target, "r+b") as file:
        file.seek(int(start))
        file.write(data)
