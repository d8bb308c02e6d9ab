"""LoRA: a change of low rank beside each matrix learns."""

import re
from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field

from treadle.core.method import Paper
from treadle.learn.tune.base import Learner


class LoRA(Learner):
    """Freeze the model, and let a product of two thin matrices learn beside each of its matrices.

    W x becomes W x + (alpha / rank) B A x with A [rank, in] drawn at random and B [out, rank] zero
    at first, so that training begins at the model itself (section 4.1 of the paper). What is
    written is an adapter in peft's format. Here all matrices of the blocks get factors, and not
    those of the attention alone, as later work found better.

    Paper: Hu et al., "LoRA: low-rank adaptation of large language models", 2022.
    """

    name: ClassVar[str] = "lora"
    rate_factor: ClassVar[float] = 10.0
    is_adapter: ClassVar[bool] = True
    paper = Paper(
        "LoRA: low-rank adaptation of large language models",
        2022,
        "https://arxiv.org/abs/2106.09685",
    )

    rank: Annotated[int, Field(gt=0)] = 16
    """Columns of B and rows of A."""
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """The change is multiplied by alpha / rank."""
    pattern: str = ""
    """Regular expression that is searched in the matrices' names; empty: all of the blocks."""

    def names(self, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
        """Return the names of matrices that get factors.

        Raises:
            SettingsError: The pattern is no regular expression, or is found in none.
        """
        from treadle.core.errors import SettingsError

        try:
            found = [name for name in shapes if re.search(self.pattern, name)]
        except re.error as error:
            raise SettingsError(
                f"learn.pattern = {self.pattern!r} is no regular expression ({error}); mend it."
            ) from error
        if not found:
            raise SettingsError(
                f"learn.pattern = {self.pattern!r} is found in no name of the model's matrices, "
                f"which are called like '{next(iter(shapes), '')}'; give a part of such names."
            )
        return found
