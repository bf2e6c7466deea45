from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from ladm_hf.config import LadmConfig
from ladm_hf.errors import ConfigError


def test_defaults_are_the_papers() -> None:
    config = LadmConfig()
    assert (config.span_length, config.d_afs, config.d_cds, config.ablation) == (128, 4, 4, None)
    assert config.min_tokens == 2305


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"span_length": 0}, "span_length"),
        ({"span_length": 1}, "span_length"),
        ({"span_length": 12.5}, "span_length"),
        ({"d_afs": -1}, "d_afs"),
        ({"d_cds": True}, "d_cds"),
        ({"ablation": "no_sigma"}, "ablation"),
        ({"overflow": "drop"}, "overflow"),
        ({"max_length": 2304}, "max_length"),
        ({"heads": []}, "heads"),
        ({"heads": [(1,)]}, "heads"),
        ({"heads": 3}, "heads"),
        ({"heads": [(-1, 0)]}, "heads"),
    ],
)
def test_bad_options_are_named(options, names) -> None:
    with pytest.raises(ConfigError, match=names):
        LadmConfig(**options)


def test_heads_are_sorted_and_unique() -> None:
    assert LadmConfig(heads=[[3, 2], [0, 1], [3, 2], [np.int64(3), 0]]).heads == ((0, 1), (3, 0), (3, 2))


def test_round_trip_and_equality() -> None:
    config = LadmConfig(span_length=64, heads=((1, 2),), ablation="no_std", overflow="windows")
    assert LadmConfig.from_dict(config.to_dict()) == config
    assert hash(config) == hash(LadmConfig.from_dict(config.to_dict()))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.span_length = 3  # type: ignore[misc]


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="'span_len'.*span_length"):
        LadmConfig.from_dict({"span_len": 3})


def test_json_file(tmp_path) -> None:
    path = tmp_path / "ladm_config.json"
    path.write_text('{"heads": [[1, 0]], "calibration": {"auc": 0.5}}')
    assert LadmConfig.from_json_file(path) == LadmConfig(heads=((1, 0),))
    for text, message in (("{", "not valid JSON"), ("[]", "JSON object"), ('{"x": 1}', "ladm_config.json: unknown")):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            LadmConfig.from_json_file(path)
    for unreadable in (tmp_path / "none.json", tmp_path):
        with pytest.raises(ConfigError, match="cannot read"):
            LadmConfig.from_json_file(unreadable)


def test_what_is_left_out_is_taken_from_the_calculator() -> None:
    own = LadmConfig(heads=[(3, 1), (2, 0)], weights=[1, 2], ablation="no_std").over(LadmConfig.paper())
    assert own.heads == ((2, 0), (3, 1))
    assert own.weights == (2.0, 1.0)
    shorter = LadmConfig(max_length=4096)
    assert shorter.given == {"max_length"}
    assert shorter.over(own) == dataclasses.replace(own, max_length=4096)
    assert LadmConfig(ablation=None).over(own).ablation is None
    assert LadmConfig(heads=[(0, 0)]).over(own).weights is None
    assert LadmConfig.paper().over(own) == LadmConfig()


@pytest.mark.parametrize(
    ("heads", "weights"),
    [(None, [1]), ([(0, 0)], [1, 2]), ([(0, 0), (0, 0)], [1, 1]), ([(0, 0)], [0]), ([(0, 0)], "x")],
)
def test_weights_must_fit_the_heads(heads, weights) -> None:
    with pytest.raises(ConfigError, match="weights"):
        LadmConfig(heads=heads, weights=weights)


def test_weights_survive_a_file(tmp_path) -> None:
    config = LadmConfig(heads=[(0, 1), (0, 0)], weights=[0.5, 1.0], max_length=4096)
    (tmp_path / "ladm_config.json").write_text(json.dumps(config.to_dict()))
    assert LadmConfig.from_json_file(tmp_path / "ladm_config.json") == config
