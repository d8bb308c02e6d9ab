"""The table of eviction policies."""

from typing import TYPE_CHECKING

from treadle.core.registry import Registry

if TYPE_CHECKING:
    from treadle.runtime.evict.base import Eviction

__all__ = ["EVICTIONS"]

_METHODS = "treadle.runtime.evict.methods"
EVICTIONS: "Registry[Eviction]" = Registry(
    "runtime eviction", {"sinks": f"{_METHODS}.sinks:Sinks", "random": f"{_METHODS}.random:Random"}
)
