"""The engine that executes any checkpoint: cache, scheduler, steps, sampling. No HTTP, no files."""

from typing import TYPE_CHECKING, Any

from treadle.runtime.request import SamplingParams
from treadle.runtime.structured import StructuredOutputs

if TYPE_CHECKING:
    from treadle.runtime.llm import LLM

__all__ = ["LLM", "SamplingParams", "StructuredOutputs"]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:  # Any: a module's attribute
    """Import the engine when it is asked for: the settings alone need no model."""
    if name == "LLM":
        from treadle.runtime.llm import LLM

        return LLM
    raise AttributeError(f"module 'treadle.runtime' has no attribute '{name}'")
