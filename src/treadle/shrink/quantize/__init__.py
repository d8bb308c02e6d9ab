"""Quantize: how many bits each weight gets, and to which code it is rounded."""

from treadle.shrink.quantize.apply import quantize
from treadle.shrink.quantize.tables import QUANTIZERS

__all__ = ["QUANTIZERS", "quantize"]
