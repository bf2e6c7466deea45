"""Writing and loading the files of a result."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from datasets import Dataset
from datasets.utils import are_progress_bars_disabled

from ladm_hf.data.loaded import load_files
from ladm_hf.data.rows import DatasetRows


class GonePipe(io.StringIO):
    """Standard error whose reader went away, as `head` does."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def test_a_result_is_written_and_loaded_where_standard_error_went_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    # other tests' modules turn them off
    monkeypatch.setattr(
        sys.modules[are_progress_bars_disabled.__module__], "_hf_datasets_progress_bars_disabled", False
    )
    rows = Dataset.from_dict({"text": ["one", "two"]})
    monkeypatch.setattr(sys, "stderr", GonePipe())
    files = DatasetRows(rows).write(tmp_path / "data", "train")
    assert load_files(files, "train")["text"][:] == ["one", "two"]
    assert not are_progress_bars_disabled()
