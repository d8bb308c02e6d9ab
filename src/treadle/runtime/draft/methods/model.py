"""A smaller model of the same vocabulary."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from treadle.core.errors import SettingsError
from treadle.core.method import Paper
from treadle.runtime.draft.base import Drafter, Drafting, DraftTarget

__all__ = ["DraftModel"]


class DraftModel(Drafter):
    """Draft what a smaller model says: another one, or the same one pruned or in fewer bits.

    It writes `most_tokens` tokens, or as few as pay, one after the other, and the model verifies
    them in one pass. Of sampled answers, `coupled` draws draft and answer by the same random
    number, so that an answer is what it is without drafts; `rejection` accepts x_i with chance
    min(1, p(x_i) / q(x_i)) and draws the first refused one from max(0, p - q) (theorem 1 of the
    paper); `block` verifies all tokens together and accepts more of them (Sun et al., 2024). The
    last two keep the law of answers, not the answers: they draw all `most_tokens` each time.

    Paper: Fast Inference from Transformers via Speculative Decoding, Leviathan et al., 2023.
    """

    name: ClassVar[str] = "model"
    paper = Paper(
        "Fast Inference from Transformers via Speculative Decoding",
        2023,
        "https://arxiv.org/abs/2211.17192",
    )

    blocks: ClassVar[tuple[int, ...]] = ()

    path: Annotated[str, Field(min_length=1)]
    """Of the drafting model: a folder, a GGUF file, packaged:smollm2, or a hub id."""
    weights: str = "auto"
    """How it is held: auto, fp32, fp16, q8, q4_0 or q4_1."""
    most_tokens: Annotated[int, Field(ge=1, le=32)] = 5
    """Tokens of a draft."""
    verification: Literal["coupled", "rejection", "block"] = "coupled"
    """Of sampled answers; the most probable tokens are always compared."""
    cache_tokens: Annotated[int, Field(ge=16)] = 16_384
    """Tokens whose keys and values the drafting model's own cache holds."""

    def open(self, target: DraftTarget) -> Drafting:
        """Return the model, loaded.

        Raises:
            SettingsError: It has another vocabulary, or is larger than what it drafts for.
        """
        if target.open_model is None:
            raise SettingsError(
                "This engine loads no drafting model; choose suffix, ngram or recycling, or make "
                "it by LLM(FOLDER, speculate=DRAFT_FOLDER)."
            )
        return target.open_model(self)
