"""What a scorer takes: columns of any library, nested ones, and bare lists of documents of any kind."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from datasets import Dataset
from launches import document, scorer

from ladm_hf import LadmScorer
from ladm_hf.data.columns import documents_of
from ladm_hf.errors import ColumnError, InputError
from ladm_hf.scoring.inputs import checked_ids, checked_text, is_missing, read_batch

TEXTS = [document(250, 0), None, "short", document(260, 1)]
STATUSES = ["ok", "null", "too_short", "ok"]
IDS = [list(range(300)), None, [1, 2], list(range(200, 500))]


@pytest.fixture(scope="module")
def one() -> LadmScorer:
    return scorer()


@pytest.fixture(scope="module")
def expected(one: LadmScorer) -> list[float]:
    return [found.score for found in one.score_texts(TEXTS)]


@pytest.mark.parametrize(
    "texts",
    [
        TEXTS,
        tuple(TEXTS),
        iter(TEXTS),
        np.array(TEXTS, dtype=object),
        Dataset.from_dict({"text": TEXTS})["text"],
        Dataset.from_dict({"text": TEXTS}).to_iterable_dataset()["text"],
        Dataset.from_dict({"text": TEXTS}).with_format("pandas")["text"],
        Dataset.from_dict({"text": TEXTS}).with_format("arrow")["text"],
        pd.Series(TEXTS),
        pd.Series(TEXTS, dtype="string"),
        pd.Series(TEXTS, dtype="category", index=list("abcd")),
        pd.Series(TEXTS, dtype=pd.ArrowDtype(pa.large_string())),
        pa.array(TEXTS),
        pa.chunked_array([TEXTS[:1], TEXTS[1:]]),
        pa.array(TEXTS).dictionary_encode(),
        # as writers of parquet that know no texts leave them
        pa.array([text and text.encode() for text in TEXTS], pa.large_binary()),
        [text and text.encode() for text in TEXTS],
    ],
    ids=lambda texts: type(texts).__name__,
)
def test_a_list_of_texts_is_a_list_of_texts(one: LadmScorer, expected: list[float], texts: Any) -> None:
    found = one(texts)
    assert found["ladm_status"] == STATUSES
    np.testing.assert_array_equal(found["ladm_score"], expected)


def test_score_texts_takes_the_same(one: LadmScorer) -> None:
    for texts in (Dataset.from_dict({"text": TEXTS})["text"], pd.Series(TEXTS), pa.array(TEXTS), iter(TEXTS)):
        assert [found.status for found in one.score_texts(texts)] == STATUSES


@pytest.mark.parametrize(
    "ids",
    [IDS, pd.Series(IDS), pa.array(IDS), Dataset.from_dict({"ids": IDS})["ids"]],
    ids=lambda ids: type(ids).__name__,
)
def test_a_list_of_token_ids_is_a_list_of_token_ids(one: LadmScorer, ids: Any) -> None:
    assert one(ids)["ladm_status"] == [found.status for found in one.score_input_ids(ids)] == STATUSES


def test_a_tensor_of_token_ids_is_a_batch(one: LadmScorer) -> None:
    ids = torch.arange(600).reshape(2, 300)
    assert one(ids)["ladm_status"] == one(ids.numpy())["ladm_status"] == ["ok", "ok"]


@pytest.mark.parametrize("one_text", ["a text", b"a text"])
def test_one_text_is_no_list(one: LadmScorer, one_text: Any) -> None:
    for call in (one, one.score_texts, one.score_input_ids):
        with pytest.raises(InputError, match="found one text"):
            call(one_text)
    for value, found in ((3, "int"), (None, "NoneType"), (np.array("a text"), "ndarray")):
        with pytest.raises(InputError, match=f"found {found}"):
            one(value)
    with pytest.raises(InputError, match=r"a list of rows.*Dataset\.from_list"):
        one([{"text": "a"}, {"text": "b"}])


@pytest.mark.parametrize(
    "batch",
    [pa.table([["a"], ["b"]], names=["text", "text"]), pd.DataFrame([["a", "b"]], columns=["text", "text"])],
    ids=["pyarrow", "pandas"],
)
def test_two_columns_of_one_name_are_named(one: LadmScorer, batch: Any) -> None:
    with pytest.raises(ColumnError, match="2 columns are called 'text'"):
        one(batch)


@pytest.mark.parametrize(
    "value",
    [None, float("nan"), np.float32("nan"), pd.NA, pd.NaT, np.datetime64("NaT"), Decimal("NaN")],
    ids=lambda value: type(value).__name__,
)
def test_what_libraries_put_in_place_of_nothing_is_null(one: LadmScorer, value: Any) -> None:
    assert is_missing(value)
    good = document(250, 0)
    assert one({"text": [good, value]})["ladm_status"] == ["ok", "null"]
    assert one({"text": pd.Series([good, value], dtype=object)})["ladm_status"] == ["ok", "null"]
    assert one([good, value])["ladm_status"] == ["ok", "null"]
    assert one({"input_ids": [IDS[0], value]})["ladm_status"] == ["ok", "null"]


def test_other_values_are_no_gaps(one: LadmScorer) -> None:
    values = [0, 1.5, "", True, [], b"\xff bytes", {"a": None}]
    assert not any(map(is_missing, values))
    statuses = one({"text": values})["ladm_status"]
    assert statuses[2] == "empty"
    assert all(status.startswith("error: expected a string") for i, status in enumerate(statuses) if i != 2)


@pytest.mark.parametrize("form", [None, "numpy", "torch", "pandas", "arrow"])
def test_nested_columns_in_a_map(expected: list[float], form: str | None) -> None:
    meta = [{"text": text, "inner": {"ids": [n]}} for n, text in enumerate(TEXTS[:1] + TEXTS[2:])]
    data = Dataset.from_dict({"id": [0, 1, 2, 3], "meta": [meta[0], None, *meta[1:]]})
    nested = scorer(text_column="meta.text")
    found = data.with_format(form).map(nested, batched=True).with_format(None)
    assert list(found["ladm_status"]) == STATUSES
    np.testing.assert_array_equal(found["ladm_score"], expected)
    deeper = scorer(text_column=None, input_ids_column="meta.inner.ids")
    assert list(data.with_format(form).map(deeper, batched=True).with_format(None)["ladm_status"]) == [
        "too_short", "null", "too_short", "too_short",
    ]  # fmt: skip


def test_a_column_whose_name_has_a_dot_comes_first() -> None:
    column, rows = read_batch({"meta.text": ["flat"], "meta": [{"text": "nested"}]}, "meta.text", None)
    assert (column, rows) == ("meta.text", ["flat"])


def test_nested_columns_that_are_not_there() -> None:
    batch = {"meta": [{"body": "x"}, None], "input_ids": [[1], [2]]}
    assert read_batch(batch, "meta.text", "input_ids") == ("input_ids", [[1], [2]])
    for column in ("meta.text", "mata.text", "meta.body.deep"):
        with pytest.raises(
            ColumnError, match=rf"no column '{column}'.*its columns are 'meta', 'input_ids'.*with a dot"
        ):
            read_batch(batch, column, None)
    with pytest.raises(ColumnError, match="batched=True"):
        read_batch({"meta": {"text": "x"}}, "meta.text", None)
    # nothing tells that a column of an empty batch is not there
    assert read_batch({"meta": []}, "meta.text", None) == ("meta.text", [])


def test_a_data_set_is_a_batch(one: LadmScorer) -> None:
    assert one(Dataset.from_dict({"text": TEXTS}))["ladm_status"] == STATUSES


def test_a_text_that_is_no_utf8_is_an_error_of_its_row(one: LadmScorer) -> None:
    texts = pa.array([TEXTS[0].encode(), b"\xff\xfe"], pa.binary()).view(pa.string())
    for batch in (texts, pa.table({"text": texts})):
        assert one(batch)["ladm_status"] == ["ok", "error: expected a string, found bytes"]


@pytest.mark.parametrize("value", [["a", "b"], [["a"]], [{"role": "user"}]], ids=str)
def test_a_list_in_place_of_a_text_is_an_error_of_its_row(one: LadmScorer, value: Any) -> None:
    """As of a chat, or of a JSON file that holds its columns."""
    for batch in ({"text": [value, TEXTS[0]]}, pa.table({"text": [value] * 2}), pd.DataFrame({"text": [value] * 2})):
        found = one(batch)
        assert found["ladm_status"][0].startswith("error: expected a string, found")
        assert np.isnan(found["ladm_repetition"][0])


@pytest.mark.parametrize("padded", [[5, 6, 7, 0, 0], [0, 0, 5, 6, 7]])
def test_token_ids_that_a_mask_calls_padding_do_not_count(one: LadmScorer, padded: list[int]) -> None:
    mask = [int(value > 0) for value in padded]
    rows = {"input_ids": [padded, [1, 2], None], "attention_mask": [mask, [1, 1], None]}
    for batch in (rows, pa.table(rows), pd.DataFrame(rows), Dataset.from_dict(rows).with_format("torch")[:2]):
        column, found = read_batch(batch, "text", "input_ids")
        assert column == "input_ids"
        assert [np.asarray(ids).tolist() for ids in found[:2]] == [[5, 6, 7], [1, 2]]
    nested = pa.table({"tokens": pa.array([{"input_ids": padded, "attention_mask": mask}])})
    assert [ids.tolist() for ids in documents_of(nested, "tokens.input_ids")] == [[5, 6, 7]]
    assert one(rows)["ladm_num_tokens"].tolist() == [3, 2, 0]


def test_a_mask_of_another_length_is_refused() -> None:
    with pytest.raises(InputError, match="row 0 .* 3 token ids in 'input_ids' but 2 entries in 'attention_mask'"):
        read_batch({"input_ids": [[1, 2, 3]], "attention_mask": [[1, 0]]}, None, "input_ids")


def test_values_kept_as_json_are_what_they_are(one: LadmScorer) -> None:
    """As `datasets` keeps a column of texts among which is a number."""
    values = pa.array([json.dumps(TEXTS[0]), "5", '{"a": 1}', None], pa.json_())
    assert documents_of(pa.table({"text": values}), "text") == [TEXTS[0], 5, {"a": 1}, None]
    found = one(pa.table({"text": values}))
    assert found["ladm_status"][1:] == [
        "error: expected a string, found int", "error: expected a string, found dict", "null",
    ]  # fmt: skip
    assert found["ladm_score"][0] == one([TEXTS[0]])["ladm_score"][0]


@pytest.mark.parametrize("options", [{"with_indices": True}, {"with_indices": True, "with_rank": True}], ids=str)
def test_what_is_no_rank_is_not_taken_for_one(one: LadmScorer, options: dict[str, bool]) -> None:
    with pytest.raises(InputError, match="without with_indices"):
        Dataset.from_dict({"text": TEXTS}).map(one, batched=True, **options)


def test_token_ids_in_other_forms_are_errors_of_their_rows() -> None:
    assert checked_ids([1, None]) == "error: expected a flat sequence of integers, found null among them"
    ids = pa.table({"input_ids": pa.array([[1, None, 2], [3]])})
    assert documents_of(ids, "input_ids")[0] == [1, None, 2]
    rows = read_batch({"input_ids": [b"\x01\x00\xff", b"\x02\x00"]}, None, "input_ids")[1]
    assert all(str(checked_ids(row)).startswith("error: expected a flat sequence of integers") for row in rows)
    assert checked_text(np.array(["a"])) == "error: expected a string, found list"
