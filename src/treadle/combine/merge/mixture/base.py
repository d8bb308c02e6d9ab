"""The protocol of routers: what is known of one MLP in, the rows of its gate out."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from pydantic import ConfigDict

from treadle.combine.merge.site import Floats
from treadle.core.method import Method

__all__ = ["MadeGate", "PromptStates", "Reads", "RoutedMlp", "Router"]

Reads = Literal["nothing", "embeddings", "residual", "mlp", "changes", "losses"]
"""What a router must be shown: of its prompts the rows of the embedding, the residual stream before
each layer, or what enters each MLP; or that of tokens drawn at random, and what the experts
changed; or that of a text, and the experts' losses on it."""


class PromptStates(NamedTuple):
    """What an expert is for and what it is not for, text by text [tokens, hidden]."""

    positive: Sequence[Floats]
    negative: Sequence[Floats] = ()


class MadeGate(NamedTuple):
    """The gate of one MLP."""

    rows: Floats
    """[experts, hidden]; a token goes where its products with them are largest."""
    agreement: float | None = None
    """Share of inputs for which it chooses the expert that a gate of any form would; None where the
    router wants no more than a linear one."""


class RoutedMlp(NamedTuple):
    """One MLP, as routers see it."""

    num_experts: int
    hidden: int
    draw: np.random.Generator
    """A stream of random numbers of its own."""
    texts: Sequence[PromptStates]
    """For each expert its prompts, in the form that the router reads."""
    inputs: Floats
    """What enters it, of tokens of a text, or drawn at random: [tokens, hidden]."""
    change: Callable[[int], Sequence[Floats]]
    """What an expert changed in the matrices that read the input, each [out, hidden]."""
    losses: Floats
    """-log p of what follows each of the text's tokens, by each model alone: [tokens, experts]."""


class Router(Method, ABC):
    """How the gate of a mixture is made without training."""

    model_config = ConfigDict(allow_inf_nan=False)

    @property
    @abstractmethod
    def reads(self) -> Reads:
        """What the router must be shown."""

    @property
    def needs_prompts(self) -> bool:
        """Whether experts must say what they are for."""
        return self.reads in ("embeddings", "residual", "mlp")

    @abstractmethod
    def gate(self, mlp: RoutedMlp) -> MadeGate:
        """Return the gate of one MLP."""
