"""What a pickled scorer takes to a worker beside its identity; `datasets` does not hash it."""

from __future__ import annotations

import contextlib
from typing import Any

from ladm_hf.scoring.loader import Loader


class Runtime:
    """What makes a scorer again in another process.

    Args:
        loader ([`Loader`]): of the scorer. A live model travels with its calculator; any other is found again by name.
        settled_dtype (`str`, *optional*): what `"auto"` stands for.
        options (`dict`): the scorer's other arguments by name.
    """

    def __init__(self, loader: Loader, settled_dtype: str | None, options: dict[str, Any]) -> None:
        found = loader.calculator
        self.settled_dtype = settled_dtype
        self.calculator = found if found.model is not None else None
        self.model = found.name if found.model is None else found.model
        self.options = {
            "revision": found.revision,
            "dtype": loader.asked_dtype,
            "backend": loader.backend,
            "device": loader.asked_device,
            "max_batch_tokens": loader.max_batch_tokens,
            "short_context": loader.short_context,
            **options,
        }


def _hash_runtime(pickler: Any, runtime: Runtime) -> None:
    """How `datasets` hashes a [`Runtime`]: as a constant."""
    pickler.save_reduce(str, ("ladm runtime",), obj=runtime)


# A private name; without it `datasets` hashes the runtime too, and a scorer on another device misses its cache.
with contextlib.suppress(ImportError):
    from datasets.utils._dill import pklregister

    pklregister(Runtime)(_hash_runtime)
