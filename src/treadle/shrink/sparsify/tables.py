"""The table of the family's methods."""

from treadle.core.registry import Registry
from treadle.shrink.sparsify.base import HeadTraining

__all__ = ["METHODS"]

_METHODS = "treadle.shrink.sparsify.methods"

METHODS: Registry[HeadTraining] = Registry(
    "sparsify method",
    {
        "locret": f"{_METHODS}.locret:Locret",
        "kvzap": f"{_METHODS}.kvzap:KVzap",
        "gated": f"{_METHODS}.gated:Gated",
    },
)
