"""Prompts of exact lengths that share what a trace says they share."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from treadle.core.errors import SettingsError
from treadle.core.seed import numpy_stream
from treadle.core.trace import Trace
from treadle.runtime.client import Endpoint, RefusedError

__all__ = ["BenchPrompts", "Pool", "find_pool", "sample_text"]

_CALIBRATION_WORDS = 400
_NOT_THERE = (400, 404, 405, 422, 501)
Words = npt.NDArray[np.int64]


class Pool:
    """What prompts are drawn from: token ids, or words where a server shows no tokens."""

    def __init__(self, entries: Sequence[int] | Sequence[str], tokens_per_entry: float) -> None:
        self.entries, self.tokens_per_entry = entries, tokens_per_entry

    @property
    def is_exact(self) -> bool:
        """Whether prompts have exactly as many tokens as asked for."""
        return isinstance(self.entries[0], int)

    def prompt(self, places: Words) -> list[int] | str:
        """Return the prompt made of the entries at `places`."""
        found = [self.entries[place] for place in places]
        return found if self.is_exact else " ".join(map(str, found))


class BenchPrompts:
    """Draws the prompt of each request of a trace.

    A block's content depends on its hash alone, so that prompts share what they shared in the
    trace, and a server's prefix cache is of the same use; the rest of a prompt is its own.
    """

    def __init__(self, trace: Trace, pool: Pool, seed: int) -> None:
        self._trace, self._pool, self._seed = trace, pool, seed

    def __call__(self, place: int) -> list[int] | str:
        """Return the prompt of the request at `place`."""
        trace, pool = self._trace, self._pool
        length = max(1, round(int(trace.prompt_tokens[place]) / pool.tokens_per_entry))
        block = max(1, round(trace.block_tokens / pool.tokens_per_entry))
        hashes = () if trace.blocks is None else trace.blocks[place]
        num_shared = -(-length // block)
        parts = [self._draw(f"block {found}", block) for found in hashes[:num_shared]]
        missing = length - block * len(parts)
        if missing > 0:
            parts.append(self._draw(f"request {place}", missing))
        return pool.prompt(np.concatenate(parts)[:length])

    def _draw(self, name: str, count: int) -> Words:
        stream = numpy_stream(self._seed, name)
        return stream.integers(len(self._pool.entries), size=count)


def sample_text() -> str:
    """Return English text that every machine has: the help topics of the standard library."""
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))[:60_000]


async def find_pool(endpoint: Endpoint, model: str) -> Pool:
    """Return the tokens that the server's tokenizer makes of English text.

    Where it does not show its tokens, return words, and how many tokens it counts for each.

    Raises:
        RefusedError: It cannot be reached.
        SettingsError: It does not count the tokens of a prompt either.
    """
    text = sample_text()
    try:
        return Pool(sorted(set(await endpoint.tokenize(model, text))), 1.0)
    except RefusedError as error:
        if error.status not in _NOT_THERE:
            raise
    words = sorted({word for word in text.split() if word.isalpha()})
    tried = " ".join(words[:: max(1, len(words) // _CALIBRATION_WORDS)])
    body = {"model": model, "prompt": tried, "max_tokens": 1}
    async for chunk in endpoint.completion(body):
        if usage := chunk.get("usage"):
            return Pool(words, int(usage["prompt_tokens"]) / len(tried.split()))
    raise SettingsError(
        f"The server at {endpoint.address} neither shows nor counts the tokens of a prompt, so "
        f"that none of a known length can be made; use one with /tokenize or usage in streams."
    )
