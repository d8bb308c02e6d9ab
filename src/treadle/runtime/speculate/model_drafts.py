"""Drafts by a model: its executor, its own small cache, all texts of a step together."""

from collections.abc import Hashable, Sequence
from typing import ClassVar

from treadle.runtime.cache.pages import PagePool
from treadle.runtime.draft.base import Drafting
from treadle.runtime.draft.proposal import Draft, DraftText, Floats, Law
from treadle.runtime.executor import Executor
from treadle.runtime.request import Request, SamplingParams
from treadle.runtime.schedule.rows import RowChunk, rows_of

__all__ = ["ModelDrafts"]

_MOST_ROWS = 256
"""Of a step that reads prompts."""
_NOTHING = Draft([], [], [])


class _Copy:
    """A text as the drafting model has read it."""

    def __init__(self, number: int, executor: Executor) -> None:
        bounds, first = executor.shape.rope_lengths
        self.request = Request(
            *(f"draft-{number}", [], 0, SamplingParams(), 0),
            rope_bounds=bounds,
            rope_dynamic_from=first,
        )
        self.last_use = 0


class ModelDrafts(Drafting):
    """The texts of an engine in the cache of a drafting model.

    Args:
        executor: Of the drafting model.
        pool: Its cache.
        most_tokens: Of a draft.
        verification: How sampled tokens are verified.
    """

    is_costly: ClassVar[bool] = True
    source: ClassVar[str] = "model"

    def __init__(
        self, executor: Executor, pool: PagePool, most_tokens: int, verification: str = "coupled"
    ) -> None:
        self._executor, self._pool, self.most_tokens = executor, pool, most_tokens
        self.verification = verification
        self._copies: dict[Hashable, _Copy] = {}
        self._num_asked = 0

    def propose(self, texts: Sequence[DraftText], most: int) -> list[Draft]:
        """Return a chain for each text that finds room in the cache."""
        self._num_asked += 1
        most = min(most, self.most_tokens)
        copies = [self._follow(text, most) for text in texts]
        asked = [(t, c) for t, c in zip(texts, copies, strict=True) if c is not None]
        drafts = {id(copy): Draft([], [], [], self.source, 0, []) for _, copy in asked}
        for _ in range(most if asked else 0):
            found = self._run([copy for _, copy in asked])
            for (text, copy), logits in zip(asked, found, strict=True):
                assert text.pick is not None
                own = drafts[id(copy)]
                token, chance, law = text.pick(own.tokens, logits)
                own.parents.append(len(own.tokens) - 1)
                own.tokens.append(token)
                own.chances.append(chance)
                laws: list[Law] = own.laws  # type: ignore[assignment]
                laws += [] if law is None else [law]
                copy.request.tokens.append(token)
        return [_NOTHING if copy is None else drafts[id(copy)] for copy in copies]

    def num_unread(self, text: DraftText) -> int:
        """Return how many of a text's tokens the drafting model has not read."""
        copy = self._copies.get(text.key)
        return len(text.tokens) - (0 if copy is None else copy.request.num_computed)

    def finish(self, text: DraftText) -> None:
        """Let a text's pages go."""
        copy = self._copies.pop(text.key, None)
        if copy is not None:
            self._release(copy)

    def _follow(self, text: DraftText, most: int) -> _Copy | None:
        """Return a text's copy with its tokens, and pages for a draft; None where none is."""
        longest = len(text.tokens) + most
        if longest > self._executor.shape.max_positions:
            return None
        copy = self._copies.get(text.key)
        if copy is None:
            copy = self._copies[text.key] = _Copy(self._num_asked, self._executor)
        request = copy.request
        regime, before = request.regime, request.tokens
        request.tokens, request.num_prompt = list(text.tokens), text.num_prompt
        agreed = _num_common(before, request.tokens)
        # The last token runs in any case: its logits are asked for.
        request.num_computed = min(request.num_computed, agreed, len(text.tokens) - 1)
        if request.regime != regime:
            request.num_computed = 0
        copy.last_use = self._num_asked
        return copy if self._grow(copy, longest) else None

    def _grow(self, copy: _Copy, num_tokens: int) -> bool:
        missing = -(-num_tokens // self._pool.page_size) - len(copy.request.pages)
        while missing > self._pool.num_free:
            idle = [c for c in self._copies.values() if c.request.pages and c is not copy]
            idle = [c for c in idle if c.last_use < self._num_asked]
            if not idle:
                return False
            self._release(min(idle, key=lambda other: other.last_use))
        if missing > 0:
            copy.request.pages += self._pool.allocate(missing)
        return True

    def _release(self, copy: _Copy) -> None:
        self._pool.release(copy.request.pages)
        copy.request.pages, copy.request.num_computed = [], 0

    def _run(self, copies: Sequence[_Copy]) -> list[Floats]:
        """Read what is unread of each text and return the logits [vocab] behind its last token."""
        found: dict[int, Floats] = {}
        waiting = [copy.request for copy in copies]
        while waiting:
            chunks: list[RowChunk] = []
            left = max(_MOST_ROWS, len(waiting))
            for request in waiting:
                count = min(request.num_remaining, left)
                left -= count
                if count:
                    is_last = count == request.num_remaining
                    wanted = (count - 1,) if is_last else ()
                    chunks.append(RowChunk(request, count, wanted, int(is_last)))
            rows = rows_of(chunks, self._pool.page_size)
            logits = iter(self._executor.forward(rows, self._pool.store))
            for chunk in chunks:
                chunk.request.num_computed += chunk.num_rows
                if chunk.wanted:
                    found[id(chunk.request)] = next(logits)
            waiting = [request for request in waiting if id(request) not in found]
        return [found[id(copy.request)] for copy in copies]


def _num_common(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many tokens two texts begin with alike."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(first), len(second)))
