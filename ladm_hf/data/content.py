"""What a file holds, told from its first bytes whatever its name, and its bytes unpacked.

gzip, bzip2, xz, zstd, lz4, also several members or frames one after another -> a stream of the bytes inside
git-lfs pointer, web page, archive, another format                           -> a sentence for the error
"""

from __future__ import annotations

import contextlib
import io
import logging
import lzma
import os
import re
import zlib
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from ladm_hf.errors import InputError

logger = logging.getLogger(__name__)

# Endings of names by compression.
COMPRESSIONS = {
    ".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd", ".lz4": "lz4",
    ".gzip": "gzip", ".lzma": "xz", ".zstd": "zstd",
}  # fmt: skip
HEAD_BYTES = 512
_SHOWN_BYTES = 48
_BUFFER = 1 << 20
# A zstd or lz4 file may begin with a frame to be skipped, of which there are sixteen kinds.
_MAGIC = {
    "gzip": rb"\x1f\x8b", "bzip2": rb"BZh[1-9]", "xz": rb"\xfd7zXZ\x00|\x5d\x00\x00[\x00-\xff]{2}\xff",
    "zstd": rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18", "lz4": rb"\x04\x22\x4d\x18|\x02\x21\x4c\x18",
}  # fmt: skip
_LFS = rb"version https://git-lfs\.github\.com/spec/"
_OTHERS = {
    _LFS: "a git-lfs pointer, not the file itself: fetch it with `git lfs pull`, or download it with `hf download`",
    rb"(?i)(\xef\xbb\xbf)?\s*<(!doctype|html|head|\?xml)": "a web page, perhaps a server's error saved as the file: "
    "download it again",
    rb"PK\x03\x04": "a zip archive: unpack it and give the files in it",
    rb"PAR1": "a parquet file: name it .parquet",
    rb"ARROW1": "an Arrow file: name it .arrow",
    rb"\xff\xfe\x00\x00|\x00\x00\xfe\xff": "text in UTF-32: convert it to UTF-8 with `iconv -f UTF-32 -t UTF-8`",
    rb"\xff\xfe|\xfe\xff": "text in UTF-16: convert it to UTF-8 with `iconv -f UTF-16 -t UTF-8`",
    rb"([\t\n\r -~]\x00){4}": "text in UTF-16: convert it to UTF-8 with `iconv -f UTF-16LE -t UTF-8`",
    rb"(\x00[\t\n\r -~]){4}": "text in UTF-16: convert it to UTF-8 with `iconv -f UTF-16BE -t UTF-8`",
    rb"\x00{8}": "zero bytes, as a full disk or a broken copy leaves them: download or write it again",
    rb"(?s).{257}ustar": "a tar archive: unpack it and give the files in it",
    rb"SQLite format 3": "an SQLite database: export its rows as parquet or JSON lines",
}
_UNPACK_ERRORS = (EOFError, OSError, zlib.error, lzma.LZMAError, pa.ArrowException)


def compression_of(head: bytes) -> str | None:
    """The compression of a file by its first bytes, `None` where there is none."""
    return next((name for name, magic in _MAGIC.items() if re.match(magic, head)), None)


def is_lfs_pointer(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a git-lfs pointer."""
    return re.match(_LFS, head) is not None


def is_json_array(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a JSON array."""
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def explain(head: bytes) -> str:
    """What a file is that cannot be read as what its name says, and what to do: the end of a sentence with "it is"."""
    if not head:
        return "empty: remove it, or download it again"
    if found := compression_of(head):
        return f"compressed with {found}: unpack it"
    if re.match(rb"\s*[{\[]", head):
        return f"JSON, which begins with {shown(head)}: a server's answer saved as the file, or lines to name .jsonl"
    return known_content(head) or f"something else, which begins with {shown(head)}"


def known_content(head: bytes) -> str | None:
    """What a file is that is no data, or data of another format, and what to do; `None` where it is not recognised."""
    return next((what for magic, what in _OTHERS.items() if re.match(magic, head)), None)


def shown(head: bytes) -> str:
    """The first bytes of a file, for an error."""
    return repr(head[:_SHOWN_BYTES].decode("utf-8", "backslashreplace")) + ("..." if len(head) > _SHOWN_BYTES else "")


def read_head(fs: Any, path: str) -> bytes:
    """The first bytes of a file, as it lies."""
    with reading(path), fs.open(path, "rb") as handle:
        head: bytes = handle.read(HEAD_BYTES)
    return head


def read_unpacked_head(fs: Any, path: str) -> bytes:
    """The first bytes of a file, of what is inside where it is compressed."""
    compression = compression_of(read_head(fs, path))
    with reading(path, compression), open_unpacked(fs, path, compression) as handle:
        return handle.read(HEAD_BYTES)


def format_in(fs: Any, path: str) -> str | None:
    """The module of `datasets` for a file whose name does not say its format: `"parquet"`, `"arrow"` or `"json"`."""
    head = read_unpacked_head(fs, path)
    formats = {rb"PAR1": "parquet", rb"ARROW1": "arrow", rb"\s*\{": "json"}
    return next((name for magic, name in formats.items() if re.match(magic, head)), None)


def compression_in(fs: Any, path: str) -> str | None:
    """The compression of a file by its content; a name that says otherwise is logged."""
    found = compression_of(read_head(fs, path))
    named = COMPRESSIONS.get(os.path.splitext(path.lower())[1])
    if found != named and (found or named):
        logger.warning(
            "%s is %s, not %s as its name says: it is read as what it is",
            path, f"compressed with {found}" if found else "not compressed", named or "uncompressed",
        )  # fmt: skip
    return found


def open_unpacked(fs: Any, path: str, compression: str | None) -> io.BufferedIOBase:
    """A binary file, of the bytes inside where it is compressed."""
    handle = fs.open(path, "rb")
    if compression is None:
        return handle  # type: ignore[no-any-return]
    if compression == "gzip":
        import gzip

        return io.BufferedReader(gzip.GzipFile(fileobj=handle), _BUFFER)
    if compression == "bzip2":
        import bz2

        return bz2.BZ2File(handle)
    if compression == "xz":
        return lzma.LZMAFile(handle)
    # its streams have no readline of their own
    return io.BufferedReader(pa.CompressedInputStream(handle, compression), _BUFFER)


def register_compressions() -> None:
    """Lets `datasets` unpack zstd and lz4 by pyarrow, where the packages that fsspec wants for them are missing."""
    from fsspec.compression import compr, register_compression

    def unpacker(codec: str) -> Any:
        return lambda handle, mode="rb", **options: io.BufferedReader(pa.CompressedInputStream(handle, codec), _BUFFER)

    for codec, ending in (("zstd", "zst"), ("lz4", "lz4")):
        if codec not in compr:
            register_compression(codec, unpacker(codec), ending)


def other_encoding(fs: Any, path: str) -> str:
    """What to do about a file whose text is not UTF-8, as far as its first bytes tell."""
    head = read_unpacked_head(fs, path)
    if known_content(head):
        return f"it is {explain(head)}"
    return "convert it to UTF-8, for instance with `iconv -f LATIN1 -t UTF-8`"


@contextlib.contextmanager
def reading(path: str, compression: str | None = None) -> Iterator[None]:
    """Turns the errors of a file that cannot be read, or is compressed and damaged, into one that names it."""
    try:
        yield
    except _UNPACK_ERRORS as error:
        if compression is None:
            raise InputError(f"cannot read {path}: {error}") from error
        raise InputError(
            f"{path} is damaged or cut short ({compression}: {error}): download or compress it again"
        ) from error
