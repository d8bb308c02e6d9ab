"""The table of the family's methods."""

from treadle.core.registry import Registry
from treadle.text.curate.base import CurateMethod

__all__ = ["METHODS"]

_METHODS = "treadle.text.curate.methods"

METHODS: Registry[CurateMethod] = Registry(
    "curate method",
    {
        "rules": f"{_METHODS}.rules:Rules",
        "exact": f"{_METHODS}.exact:Exact",
        "minhash": f"{_METHODS}.minhash:MinHash",
        "lines": f"{_METHODS}.lines:Lines",
        "similar_lines": f"{_METHODS}.similar_lines:SimilarLines",
        "sample": f"{_METHODS}.sample:Sample",
        "decontaminate": f"{_METHODS}.decontaminate:Decontaminate",
    },
)
