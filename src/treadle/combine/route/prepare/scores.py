"""From replies to scores: right to the letter, or the probability of the right choice."""

from typing import NamedTuple

import numpy as np

from treadle.combine.route.prepare.base import PoolQuestion, Reply

__all__ = ["PoolScore", "score_of"]


class PoolScore(NamedTuple):
    """What a member got for one question."""

    score: float
    """0..1."""
    confidence: float | None
    """How sure it was, 0..1; None where nobody tells."""
    seconds: float | None = None
    """None where nobody measured it; likewise the tokens."""
    prompt_tokens: int | None = None
    new_tokens: float | None = None


def score_of(posed: PoolQuestion, reply: Reply) -> PoolScore:
    """Return the score of a reply.

    Of written answers the share that is right to the letter but for blanks. Of choices the softmax
    of their likelihoods: the probability of the right one if it is the likeliest, else 0 (as
    RouterDC scores them); the first of equals is chosen.
    """
    rest = (reply.seconds, reply.prompt_tokens, reply.new_tokens)
    if posed.is_choice:
        values = np.asarray(reply.loglikelihoods, np.float64)
        chances = np.exp(values - values.max())
        chances /= chances.sum()
        chosen = int(values.argmax())
        score = float(chances[chosen]) if chosen == posed.gold else 0.0
        return PoolScore(score, float(chances[chosen]), *rest)
    wanted = posed.answers[0].split()
    right = [text.split() == wanted for text in reply.texts]
    sure = float(np.mean(reply.sureness)) if reply.sureness else None
    return PoolScore(sum(right) / len(right), sure, *rest)
