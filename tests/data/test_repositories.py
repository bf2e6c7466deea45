"""What is said of a data set of the Hub that cannot be had."""

from __future__ import annotations

import httpx
import pytest
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

from ladm_hf.data import repositories
from ladm_hf.errors import InputError


@pytest.mark.parametrize(
    ("kind", "status", "said"),
    [
        (GatedRepoError, 403, "the data set 'org/name' is gated: accept its terms"),
        (HfHubHTTPError, 401, r"\(401\) for the data set 'org/name'"),
        (HfHubHTTPError, 403, r"refuses access to the data set 'org/name' \(403\)"),
        (HfHubHTTPError, 500, "neither a path here nor a data set that the Hub gives"),
    ],
)
def test_a_data_set_that_the_hub_refuses_is_named_with_what_to_do_on_one_line(
    kind: type[HfHubHTTPError], status: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = httpx.Request("GET", "https://hub.test/datasets/org/name")

    def refuse(*_: object) -> None:
        raise DatasetNotFoundError("no\naccess\n") from kind("no", response=httpx.Response(status, request=request))

    monkeypatch.setattr(repositories, "_by_builder", refuse)
    with pytest.raises(InputError, match=said) as caught:
        repositories.splits_of_repository("org/name", None, None)
    assert "\n" not in str(caught.value)
