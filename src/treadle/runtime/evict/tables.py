"""The table of eviction policies."""

from typing import TYPE_CHECKING

from treadle.core.registry import Registry

if TYPE_CHECKING:
    from treadle.runtime.evict.base import Eviction

__all__ = ["EVICTIONS"]

_METHODS = "treadle.runtime.evict.methods"
EVICTIONS: "Registry[Eviction]" = Registry(
    "runtime eviction",
    {
        "sinks": f"{_METHODS}.sinks:Sinks",
        "key_norm": f"{_METHODS}.key_norm:KeyNorm",
        "snapkv": f"{_METHODS}.snapkv:SnapKV",
        "tova": f"{_METHODS}.tova:Tova",
        "entropy": f"{_METHODS}.entropy:Entropy",
        "expected": f"{_METHODS}.expected:Expected",
        "locret": f"{_METHODS}.locret:Locret",
        "kvzap": f"{_METHODS}.kvzap:Kvzap",
        "gated": f"{_METHODS}.gated:Gated",
        "kivi": f"{_METHODS}.kivi:Kivi",
        "random": f"{_METHODS}.random:Random",
        "oracle": f"{_METHODS}.oracle:Oracle",
    },
)
