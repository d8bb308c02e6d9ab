"""Searches on a toy model whose logits are drawn anew for every text; not a test itself."""

from collections.abc import Sequence

import numpy as np

from runtime.engines import VOCAB, EchoExecutor, Small
from treadle.runtime.decode.base import Controller, Surroundings, Worth
from treadle.runtime.request import SamplingParams
from treadle.runtime.schedule.search import TreeSearch

PROMPT = [3, 1, 4, 1, 5]


def logits_after(tokens: Sequence[int]) -> np.ndarray:
    draw = np.random.default_rng([int(token) for token in tokens])
    return draw.normal(0, 2, VOCAB).astype(np.float32)


def logs_after(tokens: Sequence[int]) -> np.ndarray:
    """Log-probabilities, in float64."""
    values = logits_after(tokens).astype(np.float64)
    return values - np.log(np.exp(values).sum())


class ToyExecutor(EchoExecutor):
    def say(self, logits: np.ndarray, tokens: np.ndarray) -> None:
        logits[:] = logits_after(tokens)


def text_of(tokens: Sequence[int]) -> str:
    """A letter for each token, and a full stop for every seventh."""
    return "".join("." if token % 7 == 0 else chr(97 + token % 26) for token in tokens)


def begin(
    small: Small,
    controller: Controller,
    max_tokens: int = 6,
    *,
    seed: int = 0,
    ends: frozenset[int] = frozenset(),
    worth: Worth | None = None,
    name: str = "tree",
    chance_of=None,
    extract=None,
    prompt: Sequence[int] = PROMPT,
    **fields: object,
) -> TreeSearch:
    params = SamplingParams(temperature=0, max_tokens=max_tokens)
    request = small.add(name, prompt, max_tokens, params=params, **fields)
    around = Surroundings(ends, max_tokens, seed, text_of, worth, chance_of, extract)
    found = TreeSearch(small.batch, request, controller, around)
    small.runner.searches.begin(found)
    return found


def searched(controller: Controller, max_tokens: int = 6, **given: object) -> TreeSearch:
    """A search that is done, alone in a large cache."""
    small = Small(num_pages=400, executor=ToyExecutor, max_num_seqs=16, max_num_batched_tokens=64)
    found = begin(small, controller, max_tokens, **given)
    for _ in range(2000):
        if found.is_done:
            break
        small.step()
    if found.error is not None:
        raise found.error
    assert found.is_done
    assert len(small.batch) == 0
    small.tree.clear()
    assert small.pool.num_free == 400
    return found


def answers(found: TreeSearch) -> list[list[int]]:
    return [found.tree.new_tokens(number) for number in found.ranked]


def logprob_of(tokens: Sequence[int], prompt: Sequence[int] = PROMPT) -> float:
    text, total = list(prompt), 0.0
    for token in tokens:
        total += float(logs_after(text)[token])
        text.append(token)
    return total
