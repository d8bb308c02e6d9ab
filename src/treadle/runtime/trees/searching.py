"""From a prompt and a controller to a tree in the engine's batch."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from treadle.runtime.answer.branches import TreeOutput, beam_output, tree_output
from treadle.runtime.answer.outputs import RequestOutput
from treadle.runtime.decode.base import Surroundings
from treadle.runtime.decode.worth import choose_worth
from treadle.runtime.engine import Engine
from treadle.runtime.executor import Floats
from treadle.runtime.prompts import Prompt
from treadle.runtime.request import Request, RequestState
from treadle.runtime.schedule.search import TreeSearch
from treadle.runtime.trees.asked import AskedSearch

__all__ = ["Searching", "num_answers", "num_done", "requests_of"]


class Searching:
    """Begins and ends searches on an engine, and says what came of them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def begin(self, prompt: Prompt, asking: AskedSearch, **options: Any) -> TreeSearch:
        """Let a tree begin with a prompt.

        Args:
            prompt: As in `submit`.
            asking: What is searched, and how.
            options: Of `submit`.
        """
        engine, params = self._engine, asking.params
        adapter = options.get("adapter")

        def own(rows: Sequence[Sequence[int]], firsts: Sequence[int]) -> list[Floats]:
            return engine.log_probs(rows, firsts, adapter)

        worth = choose_worth(asking.scorer, own, self._read)
        with engine._turn:
            (request,) = engine.submit(prompt, params, **options)
            ends = frozenset(params.stop_token_ids)
            around = Surroundings(
                ends if params.ignore_eos else ends | engine.prompts.eos_tokens,
                request.longest - request.num_prompt,
                request.key,
                self._read,
                worth,
                lambda question, answers: self._chances(own, question, answers),
                asking.extract,
            )
            try:
                found = TreeSearch(engine._batch, request, asking.controller, around)
            except Exception:  # a controller that cannot start leaves nothing behind
                engine.close([request])
                raise
            engine._runner.searches.begin(found)
        return found

    def close(self, search: TreeSearch) -> None:
        """End what is unfinished of a tree, and forget it."""
        with self._engine._turn:
            self._engine._runner.searches.close(search)
            self._engine._turn.notify_all()

    def tree(self, search: TreeSearch, prompt: str | None) -> TreeOutput:
        """Return what a search found that is done; raises what its controller raised."""
        if search.error is not None:
            raise search.error
        return tree_output(search, prompt, self._text_of)

    def answers(self, search: TreeSearch, prompt: str | None, count: int) -> RequestOutput:
        """Return the best answers of a beam search that is done, as `generate` gives answers."""
        if search.error is not None:
            raise search.error
        return beam_output(search, prompt, count, self._text_of)

    def _text_of(self, tokens: Sequence[int]) -> str:
        return self._read(tokens) if self._engine.prompts.has_tokenizer else ""

    def _read(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, without one at their end that ends it.

        Raises:
            DataError: The model has no tokenizer.
        """
        prompts = self._engine.prompts
        is_ended = len(tokens) > 0 and tokens[-1] in prompts.eos_tokens
        own = list(tokens[:-1] if is_ended else tokens)
        text: str = prompts.reader.decode(
            own, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def _chances(
        self,
        log_probs: Callable[[Sequence[Sequence[int]], Sequence[int]], list[Floats]],
        question: str,
        answers: Sequence[str],
    ) -> list[float]:
        """Return how likely the model finds each answer to a question, of these alone."""
        prompts = self._engine.prompts
        asked = prompts.tokens(question)
        rows = [
            asked + [int(t) for t in prompts.reader(own, add_special_tokens=False).input_ids]
            for own in answers
        ]
        found = log_probs(rows, [len(asked)] * len(rows))
        logs = np.asarray([own.sum(dtype=np.float64) for own in found])
        chances = np.exp(logs - logs.max())
        return [float(chance) for chance in chances / chances.sum()]


def requests_of(group: list[Request] | TreeSearch) -> list[Request]:
    """Return the requests that a prompt's answers wait for."""
    return group.requests if isinstance(group, TreeSearch) else group


def num_answers(group: list[Request] | TreeSearch) -> int:
    """Return how many ends a prompt's answers wait for."""
    return 1 if isinstance(group, TreeSearch) else len(group)


def num_done(group: list[Request] | TreeSearch) -> int:
    """Return how many of these have come."""
    if isinstance(group, TreeSearch):
        return int(group.is_done)
    return sum(request.state is RequestState.FINISHED for request in group)
