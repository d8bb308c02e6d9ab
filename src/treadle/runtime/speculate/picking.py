"""How a drafting model's tokens are drawn for a request."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from treadle.core.seed import stream_seed
from treadle.native.elements import uniform
from treadle.runtime.answer.sample import choose, distribution, draw_of, drawn, penalised
from treadle.runtime.answer.verify import by_block, by_rejection
from treadle.runtime.draft.proposal import Floats, Law, Picked
from treadle.runtime.request import Request

__all__ = ["picker", "verified"]

_MOST = 64


@contextmanager
def behind(request: Request, tokens: Sequence[int]) -> Iterator[None]:
    """Let a text be as if `tokens` had been chosen."""
    length = len(request.tokens)
    request.tokens += tokens
    try:
        yield
    finally:
        del request.tokens[length:]


def law_of(logits: Floats, request: Request, ends: frozenset[int]) -> Law:
    """Return what the next token is drawn from, after penalties and filters."""
    chances = distribution(penalised(logits, request, ends), request.params)
    law: Law = chances / chances.sum()
    return law


def round_draws(request: Request, purpose: str, count: int) -> list[float]:
    """Return random numbers that no other round of a request uses.

    They follow from the request and the length of its text alone, so that they depend neither on
    the batch nor on a preemption. Drafts that were refused must not be drawn by the same numbers
    again: that they were refused says something about these.
    """
    found = np.empty((count, 2), np.float32)
    uniform(stream_seed(request.key, f"{purpose}:{len(request.tokens)}"), 0, found.reshape(-1))
    pairs = found.astype(np.float64)  # two draws of 24 bits, as for other tokens
    joined: list[float] = (pairs[:, 0] + pairs[:, 1] * 2.0**-24).tolist()
    return joined


def picker(
    request: Request, ends: frozenset[int], has_laws: bool
) -> Callable[[Sequence[int], Floats], Picked]:
    """Return what draws a drafting model's tokens for a request.

    Args:
        request: The text that is written.
        ends: Tokens that end it.
        has_laws: Whether tokens are drawn by numbers of their own, and said with their law; else by
            the number that the request's own token will be drawn by.
    """
    draws: list[float] = []

    def pick(drafted: Sequence[int], logits: Floats) -> Picked:
        with behind(request, drafted):
            if not has_laws or request.params.temperature == 0:
                token = choose(logits, request, ends)
                return Picked(token, _chance(logits, token), None)
            law = law_of(logits, request, ends)
        if not draws:
            draws.extend(round_draws(request, "drafted", _MOST))
        token = drawn(law, draws[len(drafted)])
        return Picked(token, float(law[token]), law)

    return pick


def _chance(logits: Floats, token: int) -> float:
    """Return how likely a token is at temperature 1: how sure the drafting model is."""
    return float(1 / np.exp(logits - logits[token]).sum())


def verified(
    request: Request,
    drafted: Sequence[Law],
    logits: Floats,
    ends: frozenset[int],
    verification: str,
) -> list[int]:
    """Return which of a request's drafts stay, and the token behind them.

    Args:
        request: With its drafts.
        drafted: What the first of them were drawn from.
        logits: [drafts + 1, vocab] behind the last token and each draft.
        ends: Tokens that end it.
        verification: rejection or block.
    """
    count = len(drafted)
    tokens, laws = request.drafts[:count], []
    for place in range(count + 1):
        with behind(request, tokens[:place]):
            laws.append(law_of(logits[place], request, ends))
    verify = by_block if verification == "block" else by_rejection
    count, law = verify(tokens, drafted, laws, round_draws(request, "accepted", count))
    with behind(request, tokens[:count]):
        last = drawn(law, draw_of(request))
    return [*tokens[:count], last]
