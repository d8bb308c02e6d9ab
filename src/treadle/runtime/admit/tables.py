"""The table of admission policies."""

from typing import TYPE_CHECKING

from treadle.core.registry import Registry

if TYPE_CHECKING:
    from treadle.runtime.admit.base import Admission

__all__ = ["ADMISSIONS"]

_METHODS = "treadle.runtime.admit.methods"
ADMISSIONS: "Registry[Admission]" = Registry(
    "runtime policy",
    {
        "fcfs": f"{_METHODS}.fcfs:Fcfs",
        "priority": f"{_METHODS}.priority:Priority",
        "fair": f"{_METHODS}.fair:Fair",
        "fair_priority": f"{_METHODS}.fair_priority:FairPriority",
        "prefix": f"{_METHODS}.prefix:Prefix",
    },
)
