"""The tables of the runtime's policies, axis by axis."""

from typing import Any

from treadle.core.registry import Registry
from treadle.runtime.admit.tables import ADMISSIONS
from treadle.runtime.decode.tables import CONTROLLERS
from treadle.runtime.draft.tables import DRAFTERS
from treadle.runtime.evict.tables import EVICTIONS

__all__ = ["TABLES"]

TABLES: dict[str, Registry[Any]] = {  # Any: each its axis
    "admit": ADMISSIONS,
    "decode": CONTROLLERS,
    "draft": DRAFTERS,
    "evict": EVICTIONS,
}
"""Folder of `treadle.runtime` -> its table."""
