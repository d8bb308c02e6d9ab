"""Curate: may this document stay? Is it a copy? Every drop says why, every copy of what."""

from treadle.core.registry import Registry
from treadle.text.curate.base import CurateMethod

__all__ = ["METHODS", "curate", "pack", "replay", "trial"]

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

from treadle.text.curate.apply import curate  # noqa: E402  # the driver reads the table
from treadle.text.curate.pack import pack  # noqa: E402
from treadle.text.curate.replay import replay  # noqa: E402
from treadle.text.curate.trial import trial  # noqa: E402
