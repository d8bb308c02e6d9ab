"""The table of drafters."""

from typing import TYPE_CHECKING

from treadle.core.registry import Registry

if TYPE_CHECKING:
    from treadle.runtime.draft.base import Drafter

__all__ = ["DRAFTERS"]

_METHODS = "treadle.runtime.draft.methods"
DRAFTERS: "Registry[Drafter]" = Registry(
    "runtime drafter",
    {
        "none": f"{_METHODS}.none:Nothing",
        "suffix": f"{_METHODS}.suffix:Suffix",
        "ngram": f"{_METHODS}.ngram:Ngram",
        "recycling": f"{_METHODS}.recycling:Recycling",
        "model": f"{_METHODS}.model:DraftModel",
        "skip": f"{_METHODS}.skip:Skip",
    },
    otherwise=("model", "path"),
)
