"""Only norms learn."""

from collections.abc import Mapping
from typing import ClassVar

from treadle.core.method import Paper
from treadle.learn.tune.base import Learner


class Norms(Learner):
    """Let the weights of the norms learn, and the biases beside them: a ten-thousandth of a model.

    They are the vectors in whose name "norm" or "ln" stands as a word. They can scale and switch
    off features that are there, and make none; that costs hardly any memory for gradients and the
    optimizer, and takes a higher learning rate.

    Paper: Zhao et al., "Tuning LayerNorm in attention: towards efficient multi-modal LLM
    finetuning", 2024.
    """

    name: ClassVar[str] = "norms"
    rate_factor: ClassVar[float] = 20.0
    paper = Paper(
        "Tuning LayerNorm in attention: towards efficient multi-modal LLM finetuning",
        2024,
        "https://arxiv.org/abs/2312.11420",
    )

    def names(self, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
        """Return the names of vectors that belong to norms."""
        return [name for name, shape in shapes.items() if len(shape) == 1 and _is_norm(name)]


def _is_norm(name: str) -> bool:
    module = name.rpartition(".")[0].rpartition(".")[2].lower()
    return "norm" in module or module.startswith("ln_") or module == "ln"
