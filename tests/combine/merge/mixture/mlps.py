"""One MLP in memory, as routers see it; not a test itself."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from treadle.combine.merge.mixture.base import PromptStates, RoutedMlp
from treadle.combine.merge.site import Floats

SEEDS = st.integers(0, 10_000)
EXPERTS = st.integers(1, 4)
WIDTHS = st.integers(1, 9)


def nothing(expert: int) -> Sequence[Floats]:
    raise AssertionError("nobody asked what the experts changed")


def mlp(num_experts: int, hidden: int, seed: int = 0, **known: Any) -> RoutedMlp:
    """Return an MLP of which nothing is known but what is given."""
    blank = {
        "texts": (),
        "inputs": np.empty((0, hidden), np.float32),
        "change": nothing,
        "losses": np.empty((0, num_experts), np.float32),
    }
    return RoutedMlp(num_experts, hidden, np.random.default_rng(seed), **{**blank, **known})


def prompted(texts: Sequence[PromptStates], seed: int = 0) -> RoutedMlp:
    """Return an MLP of which prompts are known."""
    return mlp(len(texts), texts[0].positive[0].shape[1], seed, texts=texts)


def changed(inputs: Floats, changes: Sequence[Sequence[Floats]], seed: int = 0) -> RoutedMlp:
    """Return an MLP of which inputs are known, and what each expert changed."""
    change = changes.__getitem__
    return mlp(len(changes), inputs.shape[1], seed, inputs=inputs, change=change)


def drawn_texts(seed: int, num_experts: int, hidden: int, negative: bool) -> list[PromptStates]:
    """Return prompts of one to three tokens each."""
    draw = np.random.default_rng(seed)

    def some() -> list[Floats]:
        counts = draw.integers(1, 4, draw.integers(1, 4))
        return [draw.standard_normal((n, hidden)).astype(np.float32) for n in counts]

    return [PromptStates(some(), some() if negative else []) for _ in range(num_experts)]


def clusters(seed: int, num_experts: int, hidden: int, spread: float) -> tuple[Floats, Floats]:
    """Return the middles of as many groups [experts, hidden], and 40 points [experts, 40, hidden]
    around each."""
    draw = np.random.default_rng(seed)
    middles = draw.standard_normal((num_experts, hidden)).astype(np.float32)
    noise = draw.standard_normal((num_experts, 40, hidden)).astype(np.float32)
    return middles, middles[:, None] + np.float32(spread) * noise


def share_right(rows: Floats, points: Floats) -> float:
    """Return for how many points of each group the gate chooses the group's own expert."""
    chosen = np.argmax(points @ rows.T, axis=2)
    return float(np.mean(chosen == np.arange(len(points))[:, None]))
