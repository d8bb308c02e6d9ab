"""Choose the next token from logits; the same one whatever else is in the batch."""

import numpy as np
import numpy.typing as npt

from treadle.core.seed import stream_seed
from treadle.native.elements import uniform
from treadle.runtime.request import Request, SamplingParams, TokenLogprobs

__all__ = [
    "choose",
    "distribution",
    "draw_of",
    "drawn",
    "logprobs_of",
    "penalised",
    "request_key",
]

_NUM_LIKELY = 1024
"""Sorting so many tokens usually reaches top_p; sorting a whole vocabulary takes milliseconds."""

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def request_key(seed: int, request_id: str, index: int, own_seed: int | None) -> int:
    """Return the key of a request's stream of random numbers.

    A request with a seed of its own gives the same answer in every engine and under every id.
    """
    if own_seed is not None:
        return stream_seed(own_seed, f"sample:{index}")
    return stream_seed(seed, f"sample:{request_id}:{index}")


def choose(
    logits: Floats, request: Request, end_tokens: frozenset[int], allowed: Mask | None = None
) -> int:
    """Return the token that follows `request.tokens`.

    Randomness is one number for the pair of the request's key and the place of the token, so it
    depends neither on the batch nor on preemptions nor on restarts. Ties go to the lower token.

    Args:
        logits: [vocab], not changed.
        request: Gives the settings and the text so far.
        end_tokens: Tokens that end the text; refused until `min_tokens` have come.
        allowed: [vocab] the tokens that may come, where the answer has a form; None for all.
    """
    if request.params.temperature == 0 and _is_plain(request):
        return int(np.argmax(logits if allowed is None else np.where(allowed, logits, -np.inf)))
    scores = penalised(logits, request, end_tokens)
    if allowed is not None:
        scores[~allowed] = -np.inf
    if request.params.temperature == 0:
        return int(np.argmax(scores))
    chances = distribution(scores, request.params)
    return drawn(chances, draw_of(request))


def draw_of(request: Request) -> float:
    """Return the random number by which the token behind `request.tokens` is drawn."""
    draw = np.empty(2, np.float32)
    uniform(request.key, 2 * len(request.tokens), draw)
    # Two draws of 24 bits, or tokens less probable than 2^-24 would never come.
    return float(draw[0]) + float(draw[1]) * 2.0**-24


def drawn(chances: Doubles, draw: float) -> int:
    """Return the token that a random number stands for, among chances [vocab] of any sum."""
    sums = np.cumsum(chances)
    found = int(np.searchsorted(sums, draw * sums[-1], side="right"))
    return min(found, int(np.flatnonzero(chances)[-1]))


def _is_plain(request: Request) -> bool:
    """Say whether `penalised` would change nothing."""
    params = request.params
    is_penalised = params.presence_penalty or params.frequency_penalty
    is_early = request.num_new < params.min_tokens
    return not (is_penalised or params.repetition_penalty != 1 or params.logit_bias or is_early)


def penalised(logits: Floats, request: Request, end_tokens: frozenset[int]) -> Doubles:
    """Return the logits [vocab] in float64 after penalties, bias and the ban of an early end."""
    params = request.params
    scores: Doubles = logits.astype(np.float64)
    if params.repetition_penalty != 1:
        seen = np.unique(np.asarray(request.tokens, np.int64))
        values = scores[seen]
        penalty = params.repetition_penalty
        scores[seen] = np.where(values > 0, values / penalty, values * penalty)
    if (params.frequency_penalty or params.presence_penalty) and request.num_new:
        seen, counts = np.unique(np.asarray(request.outputs, np.int64), return_counts=True)
        scores[seen] -= params.frequency_penalty * counts + params.presence_penalty
    for token, bias in (params.logit_bias or {}).items():
        scores[token] += bias
    if request.num_new < params.min_tokens:
        scores[list(end_tokens)] = -np.inf
    return scores


def distribution(scores: Doubles, params: SamplingParams) -> Doubles:
    """Return what a token [vocab] is drawn from, unnormalised: temperature, top-k, top-p, min-p."""
    chances: Doubles = np.exp((scores - scores.max()) / params.temperature)
    kept = _top_k(chances, params.top_k)
    if params.top_p < 1:
        _keep_top_p(chances, kept, params.top_p)
    if params.min_p > 0:
        chances[chances < params.min_p] = 0  # the greatest is 1
    return chances


def _top_k(chances: Doubles, top_k: int) -> npt.NDArray[np.int64] | None:
    """Zero all but the k greatest, of equals the lower tokens; return those kept, or None."""
    if not 0 < top_k < chances.size:
        return None
    threshold = np.partition(chances, chances.size - top_k)[chances.size - top_k]
    above = np.flatnonzero(chances > threshold)
    equal = np.flatnonzero(chances == threshold)[: top_k - above.size]
    kept = np.concatenate([above, equal])
    values = chances[kept]
    chances[:] = 0
    chances[kept] = values
    return kept


def _keep_top_p(chances: Doubles, kept: npt.NDArray[np.int64] | None, top_p: float) -> None:
    """Zero what follows the most probable tokens that together reach `top_p`."""
    tokens = np.flatnonzero(chances) if kept is None else np.sort(kept)
    total = float(chances[tokens].sum())
    if tokens.size > 2 * _NUM_LIKELY:
        likely = np.sort(np.argpartition(-chances, _NUM_LIKELY)[:_NUM_LIKELY])
        found = _most_probable(chances, likely, top_p * total)
        # At the edge of the part, an equal token outside of it could come first.
        if found.size < likely.size and chances[found[-1]] > chances[likely].min():
            tokens = likely
    order = _most_probable(chances, tokens, top_p * total)
    values = chances[order]
    chances[:] = 0
    chances[order] = values


def _most_probable(
    chances: Doubles, tokens: npt.NDArray[np.int64], mass: float
) -> npt.NDArray[np.int64]:
    """Return the most probable of `tokens` that together reach `mass`, best first."""
    order = tokens[np.argsort(-chances[tokens], kind="stable")]
    last = int(np.searchsorted(np.cumsum(chances[order]), mass, side="left"))
    return order[: last + 1]


def logprobs_of(logits: Floats, token: int, count: int) -> TokenLogprobs:
    """Return the logprobs of `token` and of the `count` best tokens, best first."""
    shifted = logits - logits.max()
    normal = float(np.log(np.exp(shifted).sum(dtype=np.float64)))
    chosen = (token, *_best(shifted, count))
    return {int(one): float(shifted[one]) - normal for one in chosen}


def _best(values: Floats, count: int) -> npt.NDArray[np.int64]:
    """Return the places of the largest values, largest first; equal ones in their order."""
    if count == 0:
        return np.empty(0, np.int64)
    if count == 1:
        return np.array([values.argmax()], np.int64)
    bound = np.partition(values, -count)[-count] if count < values.size else values.min()
    found = np.flatnonzero(values >= bound)
    best: npt.NDArray[np.int64] = found[np.argsort(-values[found], kind="stable")[:count]]
    return best
