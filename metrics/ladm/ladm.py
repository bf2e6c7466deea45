"""LADM score of long documents: the metric is `ladm_hf.metric.Ladm`, and this file lets `evaluate` load it from a folder
or a Space.
"""

from ladm_hf.metric import Ladm

__all__ = ["Ladm"]
