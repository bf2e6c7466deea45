"""What a file holds: compressed in any way, under any name, or not what its name says."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ladm_hf.data.content import explain, is_lfs_pointer
from ladm_hf.data.open import open_source
from ladm_hf.errors import InputError

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1234\n"
PAGE = b"<!DOCTYPE html>\n<html><body>503 Service Unavailable</body></html>\n"
LINES = [json.dumps({"text": f"row {n} é", "n": n}).encode() + b"\n" for n in range(5000)]


def arrow(codec: str) -> Callable[[bytes], bytes]:
    def compress(data: bytes) -> bytes:
        out = pa.BufferOutputStream()
        with pa.CompressedOutputStream(out, codec) as stream:
            stream.write(data)
        packed: bytes = out.getvalue().to_pybytes()
        return packed

    return compress


COMPRESS = {
    "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": arrow("zstd"), "lz4": arrow("lz4"),
}  # fmt: skip


def numbers(path: Any, **options: Any) -> list[Any]:
    source = open_source(path, **options)
    end = int(source.scan(["text"], 512).positions[-1])
    half = [found for low, high in ((0, end // 2), (end // 2, end)) for found in source.read(low, high)]
    return [n for found in half for n in found.table["n"].to_pylist()]


@pytest.mark.parametrize("ending", COMPRESS)
def test_compressed_lines_are_read_by_the_ending_of_their_name(
    tmp_path: Path, ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    data = b"".join(LINES)
    (tmp_path / f"a.jsonl.{ending}").write_bytes(COMPRESS[ending](data[:70_001]) + COMPRESS[ending](data[70_001:]))
    assert numbers(tmp_path / f"a.jsonl.{ending}") == list(range(5000))
    assert numbers(tmp_path) == list(range(5000))
    assert not caplog.text


@pytest.mark.parametrize("ending", COMPRESS)
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json.zst", "part-00000"])
def test_content_counts_where_the_name_says_otherwise_and_it_is_told(
    tmp_path: Path, ending: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / name).write_bytes(COMPRESS[ending](b"".join(LINES)))
    assert numbers(tmp_path / name) == list(range(5000))
    assert numbers(tmp_path) == list(range(5000))
    agrees = (name.rpartition(".")[2], ending) in [("gz", "gz"), ("zst", "zst")]
    assert (name in caplog.text) != agrees


def test_plain_text_named_as_compressed_is_read_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(b"".join(LINES))
    assert numbers(tmp_path / "a.jsonl.gz") == list(range(5000))
    assert "a.jsonl.gz is not compressed, not gzip as its name says" in caplog.text


def test_a_frame_to_be_skipped_may_come_first(tmp_path: Path) -> None:
    frame = struct.pack("<II", 0x184D2A50, 5) + b"hello"
    (tmp_path / "a.jsonl.zst").write_bytes(frame + COMPRESS["zst"](b"".join(LINES)))
    assert numbers(tmp_path / "a.jsonl.zst") == list(range(5000))


@pytest.mark.parametrize("ending", COMPRESS)
def test_a_compressed_file_that_is_cut_short_is_named(tmp_path: Path, ending: str) -> None:
    packed = COMPRESS[ending](b"".join(LINES))
    (tmp_path / f"a.jsonl.{ending}").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(InputError, match=rf"a.jsonl.{ending} is damaged or cut short"):
        numbers(tmp_path / f"a.jsonl.{ending}")


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (POINTER, "git-lfs pointer.*git lfs pull"),
        (PAGE, "web page.*download it again"),
        (b"  \n" + PAGE, "web page"),
        (b"PK\x03\x04" + bytes(50), "zip archive"),
        (b"", "empty"),
        (b'{"text": "a"}\n', "JSON, which begins with .*name .jsonl"),
        (gzip.compress(PAGE, mtime=0), "compressed with gzip"),
        (bytes(1000), "zero bytes"),
        (b"PAR1" + bytes(100), "damaged or cut short"),
        (b"nothing of the kind", "begins with 'nothing of the kind'"),
    ],
)
def test_what_is_no_parquet_is_named_with_its_cause(tmp_path: Path, content: bytes, cause: str) -> None:
    pq.write_table(pa.table({"text": ["a"], "n": [0]}), tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(content)
    for data in (tmp_path / "b.parquet", tmp_path):
        with pytest.raises(InputError, match=f"b.parquet as parquet: it is.*{cause}") as caught:
            numbers(data)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (POINTER, "git-lfs pointer"),
        (PAGE, "web page"),
        (gzip.compress(PAGE, mtime=0), "web page"),
        (bytes(1000), "zero bytes"),
        (b"a.jsonl" + bytes(250) + b"ustar\x0000" + bytes(500), "tar archive"),
        (b"PK\x03\x04" + bytes(50), "zip archive"),
        ('{"text": "a"}'.encode("utf-16"), "UTF-16"),
        (json.dumps({"text": "a", "n": 1}, indent=2).encode(), "spread over several lines.*jq"),
        (b'["a"]\n', r"array of which item 0 is a str|JSON array, unlike"),
        (b'[{"text": "a"},]\n', "no valid JSON|JSON array, unlike"),
        (b'{"text": "a"},\n{"text": "b"},\n', "one object a line, without commas"),
        (b"one\ntwo\n", r"no line of .* begins with 'one\\ntwo.*not valid JSON"),
        (b'{"text": "caf\xe9"}\n' * 2, "iconv -f LATIN1"),
        (b'"one"\n2\n', "no line of .* not a JSON object but a str"),
    ],
)
def test_what_holds_no_json_lines_is_named_with_its_cause(tmp_path: Path, content: bytes, cause: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES[0])
    (tmp_path / "b.jsonl").write_bytes(content)
    for data in (tmp_path / "b.jsonl", tmp_path):
        with pytest.raises(InputError, match=cause) as caught:
            numbers(data)
        assert "b.jsonl" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_file_of_no_known_name_is_read_by_its_content_or_described(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "n": [7]}), tmp_path / "part-0")
    assert numbers(tmp_path / "part-0") == numbers(tmp_path) == [7]
    (tmp_path / "page").write_bytes(PAGE)
    with pytest.raises(InputError, match="page is in no known format; it is a web page"):
        numbers(tmp_path / "page")


def test_pointers_are_told_from_weights() -> None:
    assert is_lfs_pointer(POINTER)
    assert not is_lfs_pointer(b"\x80\x00\x00\x00{}")
    assert "git lfs pull" in explain(POINTER)


def test_a_damaged_page_of_a_parquet_file_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["some text"] * 500, "n": range(500)}), tmp_path / "a.parquet")
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    content[40:90] = b"\xff" * 50
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(InputError, match="a.parquet is damaged"):
        numbers(tmp_path / "a.parquet")
