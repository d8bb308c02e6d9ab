"""The table of the family's methods."""

from treadle.core.registry import Registry
from treadle.shrink.quantize.base import Quantizer

__all__ = ["QUANTIZERS"]

_METHODS = "treadle.shrink.quantize.methods"

QUANTIZERS: Registry[Quantizer] = Registry(
    "quantizer",
    {
        "rtn": f"{_METHODS}.rtn:RTN",
        "random": f"{_METHODS}.random:Random",
    },
)
