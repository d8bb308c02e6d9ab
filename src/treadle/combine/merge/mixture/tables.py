"""The table of routers."""

from treadle.combine.merge.mixture.base import Router
from treadle.core.registry import Registry

__all__ = ["ROUTERS"]

_METHODS = "treadle.combine.merge.mixture.methods"

ROUTERS: Registry[Router] = Registry(
    "router",
    {
        "hidden": f"{_METHODS}.hidden:HiddenState",
        "cheap_embed": f"{_METHODS}.cheap_embed:CheapEmbedding",
        "smile": f"{_METHODS}.smile:Smile",
        "trained": f"{_METHODS}.trained:Trained",
        "random": f"{_METHODS}.random:RandomGate",
    },
)
