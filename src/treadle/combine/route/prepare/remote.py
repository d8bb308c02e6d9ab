"""A member that is an OpenAI-style endpoint: asked with patience, and left out where it is dead."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import numpy as np

from treadle.combine.route.prepare.base import Asking, PoolQuestion, Reply, Vacant
from treadle.core.errors import SettingsError
from treadle.core.seed import stream_seed
from treadle.runtime.answer.sureness import sureness
from treadle.runtime.client import Endpoint, RefusedError

__all__ = ["Patience", "RemoteModel"]

_FIRST_SECONDS, _MOST_SECONDS = 0.5, 30.0
"""Between two tries: the first pause, which doubles, and the longest."""
_PASSING = {0, 408, 425, 429, 500, 502, 503, 504}
"""Statuses that may be others a moment later; 0 stands for a connection that broke."""
_MOST_COUNTED = 2**53
"""No request has so many tokens: from here on a number is no count."""
_ROUNDED = 1e-3
"""So far above 0 may rounding carry the logarithm of a probability."""
Plain = dict[str, Any]
"""JSON values."""


class Patience:
    """How often, and how, what fails is tried again."""

    def __init__(
        self, retries: int, pause: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self.retries, self._pause = retries, pause

    async def keep(self, ask: Callable[[], Awaitable[Plain]]) -> Plain:
        """Return what comes of asking, again after a pause where that may help.

        Raises:
            RefusedError: It never came.
        """
        for number in range(self.retries):
            try:
                return await ask()
            except RefusedError as error:
                if error.status not in _PASSING:
                    raise
            await self._pause(min(_MOST_SECONDS, _FIRST_SECONDS * 2**number))
        return await ask()


class RemoteModel:
    """A model behind http://HOST:PORT/MODEL."""

    billion_weights: float | None = None

    def __init__(
        self,
        name: str,
        address: str,
        patience: Patience,
        concurrency: int = 1,
        timeout_seconds: float = 600.0,
    ) -> None:
        """Take an address; nothing is asked yet.

        Raises:
            SettingsError: It is none.
        """
        self.name, self.identity = name, address
        scheme, sign, rest = address.partition("://")
        host, _, model = rest.partition("/")
        if not sign or not host:
            raise SettingsError(
                f"Found '{address}', expected an endpoint such as http://127.0.0.1:8000/MODEL; "
                f"mend it."
            )
        self._server = f"{scheme}://{host}"
        self._model = model.removeprefix("v1").strip("/")
        self._patience, self._concurrency = patience, max(1, concurrency)
        self._timeout_seconds = timeout_seconds

    def replies(self, questions: Sequence[PoolQuestion], asking: Asking) -> Iterator[Reply]:
        """Ask some at a time.

        Raises:
            Vacant: It does not answer, refuses, or what it says makes no sense.
        """
        endpoint = Endpoint(self._server, timeout_seconds=self._timeout_seconds)
        with asyncio.Runner() as runner:
            try:
                for first in range(0, len(questions), self._concurrency):
                    some = questions[first : first + self._concurrency]
                    yield from runner.run(self._all(endpoint, some, asking))
            except RefusedError as error:
                raise Vacant(str(error)) from error
            finally:
                runner.run(endpoint.__aexit__(None, None, None))

    async def _all(
        self, endpoint: Endpoint, questions: Sequence[PoolQuestion], asking: Asking
    ) -> list[Reply]:
        if not self._model:
            self._model = await self._only(endpoint)
        work = [self._one(endpoint, posed, asking) for posed in questions]
        return list(await asyncio.gather(*work))

    async def _only(self, endpoint: Endpoint) -> str:
        """Return which of a server's models is meant where the address names none."""

        async def ask() -> Plain:
            return {"names": [one.name for one in await endpoint.models()]}

        names = (await self._patience.keep(ask))["names"]
        if self.name in names or len(names) == 1:
            return self.name if self.name in names else str(names[0])
        raise Vacant(
            f"{self._server} serves {', '.join(names) or 'no models'}; write which of them "
            f"'{self.name}' is, as in {self.name}={self._server}/MODEL."
        )

    async def _one(self, endpoint: Endpoint, posed: PoolQuestion, asking: Asking) -> Reply:
        path, body = self._body(posed, asking)
        start = time.perf_counter()
        found = await self._patience.keep(lambda: endpoint.whole(path, body))
        seconds = time.perf_counter() - start
        try:
            if posed.is_choice:
                return _chosen(posed, found)._replace(seconds=seconds)
            return _written(posed, found, asking)._replace(seconds=seconds)
        except (
            KeyError,
            TypeError,
            IndexError,
            ValueError,
            AttributeError,
            OverflowError,
        ) as error:
            raise Vacant(
                f"What {self._server} answers is no completion ({type(error).__name__}: {error}; "
                f"it began with {str(found)[:80]!r}); give the address of an OpenAI-style server "
                f"that takes n and logprobs."
            ) from error

    def _body(self, posed: PoolQuestion, asking: Asking) -> tuple[str, Plain]:
        body: Plain = {"model": self._model}
        if posed.is_choice:
            prompts = [posed.question + answer for answer in posed.answers]
            scored = {"prompt": prompts, "echo": True, "max_tokens": 0, "logprobs": 0}
            return "/v1/completions", {**body, **scored, "temperature": 0}
        body |= {
            "n": asking.samples,
            "max_tokens": asking.max_tokens,
            "temperature": asking.temperature,
        }
        if asking.stop:
            body["stop"] = [asking.stop]
        if asking.temperature:
            body["seed"] = stream_seed(asking.seed, posed.id) % 2**31
        if asking.is_chat:
            said = [{"role": "user", "content": posed.question}]
            return "/v1/chat/completions", {**body, "messages": said, "logprobs": True}
        return "/v1/completions", {**body, "prompt": posed.question, "logprobs": 0}


def _written(posed: PoolQuestion, found: Plain, asking: Asking) -> Reply:
    choices = sorted(found["choices"], key=lambda one: int(one["index"]))
    if len(choices) != asking.samples:
        raise ValueError(f"{len(choices)} answers in place of {asking.samples}")
    texts = tuple(_text_of(one) for one in choices)
    told = [_logprobs_of(one) for one in choices]
    sure = () if any(one is None for one in told) else tuple(sureness(one or ()) for one in told)
    usage = found["usage"]
    new = _count(usage, "completion_tokens") / len(choices)
    return Reply(posed.id, texts, sure, (), 0.0, _count(usage, "prompt_tokens"), new)


def _count(usage: Plain, key: str) -> int:
    """Return how many tokens a reply says it took.

    Raises:
        ValueError: That is no count.
    """
    value = usage[key]
    if not isinstance(value, int | float) or not 0 <= value < _MOST_COUNTED:
        raise ValueError(f"{key} is {value!r:.40}")
    return int(value)


def _logprob(value: Any) -> float:  # Any: a JSON value
    """Return the logarithm of a probability.

    Raises:
        ValueError: It is of none.
    """
    found = float(value)
    if not -np.inf < found <= _ROUNDED:
        raise ValueError(f"a logarithm of a probability is {found:g}")
    return min(found, 0.0)


def _text_of(choice: Plain) -> str:
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    if not isinstance(text, str | None):
        raise TypeError(f"a text of type {type(text).__name__}")
    return text or ""


def _logprobs_of(choice: Plain) -> list[float] | None:
    """Return the logarithms of an answer's tokens' probabilities; None where it has none."""
    told = choice.get("logprobs")
    if told is None:
        return None
    if "content" in told:
        return [_logprob(one["logprob"]) for one in told["content"] or ()]
    return [_logprob(one) for one in told["token_logprobs"]]


def _chosen(posed: PoolQuestion, found: Plain) -> Reply:
    choices = sorted(found["choices"], key=lambda one: int(one["index"]))
    if len(choices) != len(posed.answers):
        raise ValueError(f"{len(choices)} answers in place of {len(posed.answers)}")
    sums = tuple(_behind(len(posed.question), one["logprobs"]) for one in choices)
    read = _count(found["usage"], "prompt_tokens") // len(choices)
    return Reply(posed.id, (), (), sums, 0.0, read, 1.0)


def _behind(length: int, told: Plain) -> float:
    """Return the log-likelihood of the tokens that reach beyond a question's characters."""
    starts = [int(one) for one in told["text_offset"]]
    ends = [*starts[1:], length + 1]
    values = [
        _logprob(value)
        for value, end in zip(told["token_logprobs"], ends, strict=True)
        if end > length and value is not None
    ]
    if not values:
        raise ValueError("no likelihood of an answer's tokens")
    return _logprob(np.sum(np.asarray(values, np.float64)))
