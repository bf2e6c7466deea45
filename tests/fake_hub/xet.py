"""The two binary formats of Xet uploads, read: xorbs (packs of compressed chunks) and shards (how files are made).

Formats: https://huggingface.co/docs/xet. All integers are little-endian.

    xorb  = chunk*  (an optional footer after the last chunk is ignored)
    chunk = version u8, compressed length u24, scheme u8, length u24, payload
    shard = header[48] file* bookend[48] cas* bookend[48] (a footer is ignored)
    file  = hash[32] flags u32, n u32, _[8];  n * (xorb hash[32] flags u32, bytes u32, first chunk u32, end chunk u32);
            n * verification[48] if flag 31;  sha256[32] _[16] if flag 30
    cas   = xorb hash[32] flags u32, n u32, _[8];  n * (chunk hash[32] _[16])
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

RECORD = 48
BOOKEND = b"\xff" * 32
XORB_FOOTER = b"XETBLOB"


def hash_hex(raw: bytes) -> str:
    """Xet writes a hash as four 64-bit integers in hexadecimal."""
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", raw))


def xorb_chunks(data: bytes) -> list[bytes]:
    """The uncompressed chunks of a xorb, in order."""
    chunks, at = [], 0
    while at + 8 <= len(data) and not data.startswith(XORB_FOOTER, at):
        packed = int.from_bytes(data[at + 1 : at + 4], "little")
        scheme = data[at + 4]
        size = int.from_bytes(data[at + 5 : at + 8], "little")
        chunks.append(_unpack(data[at + 8 : at + 8 + packed], scheme, size))
        at += 8 + packed
    return chunks


def _unpack(payload: bytes, scheme: int, size: int) -> bytes:
    if scheme == 0:
        return payload
    import pyarrow

    plain: bytes = pyarrow.Codec("lz4").decompress(payload, decompressed_size=size, asbytes=True)
    if scheme == 1:
        return plain
    # Scheme 2 stores every fourth byte together: all bytes 0, 4, 8, ..., then 1, 5, 9, ...
    grouped, at = bytearray(size), 0
    for offset in range(4):
        count = len(range(offset, size, 4))
        grouped[offset::4] = plain[at : at + count]
        at += count
    return bytes(grouped)


def shard_files(data: bytes) -> Iterator[tuple[str, str | None, list[tuple[str, int, int]]]]:
    """For each file of a shard its Xet hash, its sha256 if told, and the (xorb, first chunk, end chunk) in it."""
    at = RECORD
    while data[at : at + 32] != BOOKEND:
        name = hash_hex(data[at : at + 32])
        flags, count = struct.unpack_from("<II", data, at + 32)
        at += RECORD
        terms = []
        for _ in range(count):
            first, end = struct.unpack_from("<II", data, at + 40)
            terms.append((hash_hex(data[at : at + 32]), first, end))
            at += RECORD
        at += RECORD * count if flags & 1 << 31 else 0
        told = bool(flags & 1 << 30)
        yield name, hash_hex(data[at : at + 32]) if told else None, terms
        at += RECORD * told
