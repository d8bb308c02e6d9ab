"""Merge: what is the merged tensor? Every published way, streamed in float32 runs."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from treadle.combine.merge.apply import merge, merge_yaml
from treadle.combine.merge.tables import METHODS

if TYPE_CHECKING:
    from treadle.combine.merge.conflict.apply import merge_conflict
    from treadle.combine.merge.conflict.materialise import merge_materialise
    from treadle.combine.merge.extract import merge_extract_lora
    from treadle.combine.merge.glue.apply import merge_glue
    from treadle.combine.merge.inspect import merge_inspect
    from treadle.combine.merge.mixture.apply import merge_moe

__all__ = [
    "METHODS",
    "merge",
    "merge_conflict",
    "merge_extract_lora",
    "merge_glue",
    "merge_inspect",
    "merge_materialise",
    "merge_moe",
    "merge_yaml",
]

_HOMES = {
    "merge_conflict": "conflict.apply",
    "merge_extract_lora": "extract",
    "merge_glue": "glue.apply",
    "merge_inspect": "inspect",
    "merge_materialise": "conflict.materialise",
    "merge_moe": "mixture.apply",
}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:  # Any: a module's attribute
    """Import what is no plain merge when it is asked for: it takes as long as a small merge."""
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
