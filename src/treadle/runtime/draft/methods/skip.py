"""The model itself, with some of its blocks left out."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from treadle.core.errors import SettingsError
from treadle.core.method import Paper
from treadle.runtime.draft.base import Drafter, Drafting, DraftTarget

__all__ = ["Skip"]

_Block = Annotated[int, Field(ge=0)]


class Skip(Drafter):
    """Draft with the model's own weights, but for the decoder blocks that are skipped.

    The draft has its own small cache and shares the weights, so that it takes no memory beside; the
    whole model verifies it in one pass. Which blocks a model can do without is found by
    `treadle prune blocks`, which scores them; the paper searches for them, and stops a draft by its
    certainty, where we draft as many tokens as were measured to pay.

    Paper: Draft & Verify: Lossless Large Language Model Acceleration via Self-Speculative Decoding,
    Zhang et al., 2024.
    """

    name: ClassVar[str] = "skip"
    paper = Paper(
        "Draft & Verify: Lossless LLM Acceleration via Self-Speculative Decoding",
        2024,
        "https://arxiv.org/abs/2309.08168",
    )
    path: ClassVar[str] = ""
    weights: ClassVar[str] = "auto"

    blocks: Annotated[tuple[_Block, ...], Field(min_length=1)]
    """Those that are skipped, from 0 on."""
    most_tokens: Annotated[int, Field(ge=1, le=32)] = 5
    """Tokens of a draft."""
    verification: Literal["coupled", "rejection", "block"] = "coupled"
    """Of sampled answers; the most probable tokens are always compared."""
    cache_tokens: Annotated[int, Field(ge=16)] = 16_384
    """Tokens whose keys and values the draft's own cache holds."""

    def open(self, target: DraftTarget) -> Drafting:
        """Return the shortened model.

        Raises:
            SettingsError: The model has no such blocks, or cannot be run without some.
        """
        if target.open_model is None:
            raise SettingsError(
                "This engine loads no drafting model; choose suffix, ngram or recycling, or make "
                "it by LLM(FOLDER, speculate={'method': 'skip', 'blocks': [...]})."
            )
        return target.open_model(self)
