"""LADM score of long documents: `ladm_hf.metric.Ladm`, where `evaluate` looks for it in a folder or a Space."""

from ladm_hf.metric import Ladm

__all__ = ["Ladm"]
