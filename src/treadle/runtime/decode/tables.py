"""The table of controllers."""

from typing import TYPE_CHECKING

from treadle.core.registry import Registry

if TYPE_CHECKING:
    from treadle.runtime.decode.base import Controller

__all__ = ["CONTROLLERS"]

_METHODS = "treadle.runtime.decode.methods"
CONTROLLERS: "Registry[Controller]" = Registry(
    "controller of branches",
    {
        "beam": f"{_METHODS}.beam:Beam",
        "best_of": f"{_METHODS}.best_of:BestOf",
        "self_consistency": f"{_METHODS}.self_consistency:SelfConsistency",
        "tree_of_thoughts": f"{_METHODS}.tree_of_thoughts:TreeOfThoughts",
        "replay": f"{_METHODS}.replay:Replay",
    },
)
