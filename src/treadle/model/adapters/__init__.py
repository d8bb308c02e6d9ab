"""LoRA adapters in peft's format: what a folder holds, and what it changes."""

from treadle.model.adapters.adapter import Adapter, Factors

__all__ = ["Adapter", "Factors"]
