"""The tables of the family's methods, and of what learns."""

from treadle.core.registry import Registry
from treadle.learn.tune.base import Learner, Tuning

__all__ = ["LEARNERS", "METHODS"]

_METHODS = "treadle.learn.tune.methods"

METHODS: Registry[Tuning] = Registry(
    "tuning method",
    {
        "sft": f"{_METHODS}.sft:SFT",
        "dpo": f"{_METHODS}.dpo:DPO",
        "distill": f"{_METHODS}.distill:Distill",
    },
)

LEARNERS: Registry[Learner] = Registry(
    "learner",
    {
        "all": f"{_METHODS}.all:All",
        "lora": f"{_METHODS}.lora:LoRA",
        "norms": f"{_METHODS}.norms:Norms",
        "matching": f"{_METHODS}.matching:Matching",
    },
    otherwise=("matching", "pattern"),
)
