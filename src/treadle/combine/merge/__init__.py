"""Merge: what is the merged tensor? Every published way, streamed in float32 runs."""

from treadle.combine.merge.base import MergeMethod
from treadle.core.registry import Registry

__all__ = ["METHODS"]

_METHODS = "treadle.combine.merge.methods"

METHODS: Registry[MergeMethod] = Registry(
    "merge method",
    {
        "linear": f"{_METHODS}.linear:Linear",
    },
)
