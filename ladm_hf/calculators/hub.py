"""A calculator of the Hub: the files that are loaded, in the local cache, and which of many things went wrong."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from ladm_hf.calculators.files import CONFIG_FILE, INDEX, TOKENIZER, weight_files
from ladm_hf.data.hub import LOG_IN, access_refused
from ladm_hf.errors import CalculatorError, HubError


def download(name: str, revision: str | None) -> Path:
    """The snapshot folder of a Hub repository, named after its commit: configuration, tokenizer and weights.

    Raises:
        HubError: the Hub did not give it; the message says whether it was the network, the name, a gate, the revision
            or the disk.
    """
    with _hub_errors(name, revision):
        folder = _snapshot(name, revision, ["config.json", CONFIG_FILE, INDEX, *TOKENIZER])
        # of the commit just found, whatever is pushed meanwhile
        return _snapshot(name, folder.name, weight_files(folder, name))


def download_tokenizer(name: str, revision: str | None) -> Path:
    """The snapshot folder of a Hub repository, named after its commit: the tokenizer alone, without weights.

    Raises:
        HubError: see [`download`].
    """
    with _hub_errors(name, revision):
        return _snapshot(name, revision, ["config.json", *TOKENIZER])


def look_up(name: str, revision: str | None) -> tuple[Path | None, int | None]:
    """The `ladm_config.json` of a Hub repository and the number of parameters of its weights, each `None` where there
    is none, without the weights themselves.

    Raises:
        HubError: see [`download`].
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, NotASafetensorsRepoError

    config, parameters = None, None
    with _hub_errors(name, revision):
        try:
            config = Path(HfApi().hf_hub_download(name, CONFIG_FILE, revision=revision))
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            pass
        with contextlib.suppress(NotASafetensorsRepoError):
            parameters = sum(HfApi().get_safetensors_metadata(name, revision=revision).parameter_count.values())
    return config, parameters


@contextlib.contextmanager
def _hub_errors(name: str, revision: str | None) -> Iterator[None]:
    """Errors of the Hub's client as ours."""
    try:
        yield
    except CalculatorError:
        raise
    except Exception as error:
        raise _hub_error(error, name, f" at revision {revision!r}" if revision else "", revision) from error


def _snapshot(name: str, revision: str | None, files: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    # a pattern matches in subfolders too: original/, onnx/, checkpoint-500/
    subfolders = [] if any("/" in file for file in files) else ["*/*"]
    return Path(snapshot_download(name, revision=revision, allow_patterns=files, ignore_patterns=subfolders))


def _hub_error(error: Exception, name: str, at: str, revision: str | None) -> Exception:
    """What to tell of an error of the Hub's client; the error itself where it is none."""
    from huggingface_hub import errors as hub

    if isinstance(error, hub.HFValidationError):
        return HubError(f"{name!r} is neither a folder here nor a Hub id ('owner/name'), nor the bundled ladm-nano")
    if isinstance(error, hub.RevisionNotFoundError):
        return HubError(
            f"{name!r} exists on the Hub but has no revision {revision!r}: check the branch, tag or commit."
        )
    if isinstance(error, hub.RepositoryNotFoundError) and not isinstance(error, hub.GatedRepoError):
        return HubError(
            f"no model {name!r} on the Hub, nor a folder of that name here: check the name or, if it is private, "
            f"{LOG_IN}."
        )
    if isinstance(error, hub.LocalEntryNotFoundError):
        return HubError(
            f"{name!r}{at} is not in the local cache and the Hub cannot be reached: check the network (and "
            "HF_HUB_OFFLINE), or give a local folder."
        )
    if isinstance(error, hub.HfHubHTTPError):
        refused = access_refused(error, f"the model {name!r}")
        return HubError(refused or f"the Hub answered with an error for {name!r}{at}, try again later: {error}")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return HubError(f"the disk is full: free some space for {name!r}, or set HF_HOME to a folder that has it")
    if isinstance(error, PermissionError):
        return HubError(f"{name!r} cannot be kept: {error}. Set HF_HOME to a folder that can be written")
    # the clients of the Hub raise the errors of requests, httpx or their successors, not all of them OSError
    if isinstance(error, OSError) or "http" in type(error).__module__:
        return HubError(f"the network failed while fetching {name!r}{at}; run again to resume: {error}")
    return error
