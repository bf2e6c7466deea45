from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ladm_hf.config import LadmConfig
from ladm_hf.errors import ConfigError
from ladm_hf.ops.spans import SpanGrid


def pairs_by_definition(length: int, config: LadmConfig) -> list[tuple[int, int, list[int]]]:
    span, pairs = config.span_length, []
    start = length - span
    while start > span + 4 * span * config.d_afs:
        keys, key = [], start - span * config.d_afs
        while key >= span:
            keys.append(key)
            key -= span * config.d_afs
        pairs.append((len(pairs), start, keys))
        start -= span * config.d_cds
    return pairs


@settings(deadline=None)
@given(st.lists(st.integers(0, 3000), min_size=1, max_size=4), st.integers(2, 40), st.integers(1, 6), st.integers(1, 6))
def test_grid_is_the_definition(extra: list[int], span_length: int, d_afs: int, d_cds: int) -> None:
    config = LadmConfig(span_length=span_length, d_afs=d_afs, d_cds=d_cds)
    lengths = [config.min_tokens + more for more in extra]
    grid = SpanGrid(lengths, config)
    for sample, length in enumerate(lengths):
        expected = pairs_by_definition(length, config)
        actual = [(row, start, grid.key_starts(sample, row).tolist()) for row, start, _ in grid.query_spans(sample)]
        assert actual == expected
        assert grid.present[sample].sum() == sum(len(keys) for _, _, keys in expected)


def test_the_papers_length() -> None:
    grid = SpanGrid(32768)
    assert grid.shape[0] == 60
    assert grid.present.sum() == 2010


def test_smallest_document() -> None:
    assert SpanGrid(2305).shape == (1, 4)
    with pytest.raises(ConfigError, match="2304 tokens.*2305"):
        SpanGrid([4000, 2304])
    with pytest.raises(ConfigError, match="0 tokens"):
        SpanGrid([])
