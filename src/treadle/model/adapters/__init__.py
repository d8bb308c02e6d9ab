"""LoRA adapters in peft's format: what a folder holds, and what it changes."""

from treadle.model.adapters.adapter import WEIGHTS_FILE, Adapter, Factors
from treadle.model.adapters.config import CONFIG_FILE
from treadle.model.adapters.keys import PREFIX

__all__ = ["CONFIG_FILE", "PREFIX", "WEIGHTS_FILE", "Adapter", "Factors"]
