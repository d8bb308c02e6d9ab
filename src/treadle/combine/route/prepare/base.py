"""What a member of a pool is: asked questions, it gives replies as they come."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Asking", "Member", "PoolQuestion", "Reply", "Side", "Vacant"]

Side = Literal["train", "dev", "test"]


class PoolQuestion(NamedTuple):
    """A question, and what is right."""

    id: str
    """The hash of the question: the same wherever it stands."""
    task: str
    side: Side
    question: str
    answers: tuple[str, ...]
    """One; or all that can be chosen, as they stand behind the question."""
    gold: int = 0
    """Index of the right one."""

    @property
    def is_choice(self) -> bool:
        """Whether an answer is chosen, and not written."""
        return len(self.answers) > 1


class Asking(BaseModel):
    """How questions are asked: with a member, what its replies depend on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: Annotated[int, Field(ge=1, le=256)]
    temperature: Annotated[float, Field(ge=0, le=2)]
    max_tokens: Annotated[int, Field(ge=1)]
    stop: str
    is_chat: bool
    seed: int


class Reply(NamedTuple):
    """What a member said to one question."""

    id: str
    texts: tuple[str, ...]
    """One for each sample; none where an answer was chosen."""
    sureness: tuple[float, ...]
    """The mean probability of each text's tokens; empty where an endpoint does not tell."""
    loglikelihoods: tuple[float, ...]
    """Of each answer that can be chosen, in nats."""
    seconds: float
    """Until all of it was there."""
    prompt_tokens: int
    new_tokens: float
    """Of an answer, in the mean."""


class Vacant(Exception):
    """A member that does not answer, and is left out; says why."""


class Member(Protocol):
    """One model of a pool."""

    name: str
    identity: str
    """What its replies are kept under: the hash of a model, or an endpoint's address."""
    billion_weights: float | None
    """How many a token meets; None where nobody says."""

    def replies(self, questions: Sequence[PoolQuestion], asking: Asking) -> Iterator[Reply]:
        """Give the replies as they come, in any order.

        Raises:
            Vacant: It does not answer any more.
        """
