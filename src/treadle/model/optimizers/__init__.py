"""How weights follow their gradients: the optimizers of the training loop, one paper a file."""

from treadle.core.registry import Registry
from treadle.model.optimizers.base import Optimizer

__all__ = ["OPTIMIZERS", "Optimizer"]

_METHODS = "treadle.model.optimizers.methods"

OPTIMIZERS: Registry[Optimizer] = Registry(
    "optimizer",
    {"adamw": f"{_METHODS}.adamw:AdamW", "muon": f"{_METHODS}.muon:Muon"},
)
