"""LADM score of long documents: `ladm_hf.integrations.evaluate.Ladm`, where `evaluate` looks for a folder or Space."""

from ladm_hf.integrations.evaluate import Ladm

__all__ = ["Ladm"]
