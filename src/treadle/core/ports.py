"""What a verb asks of a model, whoever computes it: losses, answers to prompts, and vectors."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from treadle.core.shapes import Float, Tensor

__all__ = ["Answer", "Asked", "Decoded", "Embedder", "Generator", "Scorer"]


class Scorer(Protocol):
    """Says how likely a model finds given tokens."""

    @property
    def computed_by(self) -> str:
        """What computes, and in which form it holds the weights, for people."""

    @property
    def bytes_per_token(self) -> int:
        """Bytes of weights that lie in memory for one token; 0 where they are read as they come."""

    def token_losses(
        self, rows: Sequence[Sequence[int]], firsts: Sequence[int] | None = None
    ) -> list[Float[Tensor, "_asked"]]:
        """Return -log p of each row's tokens from `firsts` on, in nats, in float32.

        Rows have at least two tokens, and may differ in length. Unless `firsts` says where what is
        asked begins in each row (at 1 or later), it is all but the first token.
        """


class Asked(NamedTuple):
    """How prompts are to be answered."""

    max_tokens: int
    """Most tokens of an answer."""
    stop: tuple[str, ...] = ()
    """Strings that end an answer, and are no part of it."""
    is_chat: bool = False
    """Whether a prompt is what a user says: then the model's chat template stands around it."""
    ignores_end: bool = False
    """Whether answers go on after the token that ends a text, so that all are equally long."""
    temperature: float = 0.0
    """0 takes the most probable token."""
    seed: int = 0
    """Of what is drawn, where the temperature is not 0."""


class Answer(NamedTuple):
    """What a model answered to one prompt."""

    text: str
    """Empty where the model has no tokenizer."""
    token_ids: tuple[int, ...]
    is_whole: bool
    """Whether the model ended it, and not the number of tokens."""


class Decoded(NamedTuple):
    """Answers, and what it took to write them once their prompts were read."""

    answers: list[Answer]
    wall_seconds: float
    """From the last first token on."""
    cpu_seconds: float
    """Of all threads of this process together."""
    num_tokens: int
    """Of all answers, that came in this time."""
    num_drafted: int
    """Tokens that ran as guesses."""
    num_accepted: int
    num_passes: int
    """Of a text through the model: one for each token, unless guesses were right."""


class Generator(Protocol):
    """Answers prompts, and says what a token costs it."""

    @property
    def computed_by(self) -> str:
        """What computes, and in which form it holds the weights, for people."""

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""

    @property
    def max_positions(self) -> int:
        """Most tokens of a prompt and its answer."""

    @property
    def bytes_per_token(self) -> int:
        """Bytes of weights that one token of a single request reads; 0 where it is not known."""

    @property
    def cache_tokens(self) -> int:
        """Tokens of all requests together that it can hold."""

    @property
    def num_threads(self) -> int:
        """Threads that share the work; 0 if not known."""

    @property
    def flops_per_token(self) -> int:
        """Multiplications and additions with weights that one token takes; 0 if not known."""

    def answer(self, prompts: Sequence[str | Sequence[int]], asked: Asked) -> list[Answer]:
        """Answer all prompts, texts or token ids, in one batch and in their order.

        Raises:
            DataError: A prompt is empty, or leaves no room for an answer; the message says which.
        """

    def decoded(
        self, prompts: Sequence[str | Sequence[int]], asked: Asked, speculate: str
    ) -> Decoded:
        """Answer as `answer` does, with a drafter by its name, and time what follows the prompts.

        What a drafter learns of one call is there in the next one.
        """


class Embedder(Protocol):
    """Makes a vector of a text; the same one whatever texts stand beside it."""

    @property
    def computed_by(self) -> str:
        """What computes, for people."""

    @property
    def hash(self) -> str:
        """Says which numbers and settings the vectors come from: equal hashes, equal vectors."""

    @property
    def dim(self) -> int:
        """Length of a vector."""

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return a vector for each text [texts, dim], in their order; an empty text has one too."""
