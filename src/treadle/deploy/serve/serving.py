"""What the endpoints share: the models, the engine thread, the limits, and who asks."""

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from starlette.requests import Request

from treadle.core.errors import TreadleError
from treadle.deploy.http.asked import AskedGeneration
from treadle.deploy.http.errors import ApiError, from_treadle
from treadle.deploy.http.limits import ServerLimits
from treadle.deploy.serve.catalogue import Catalogue, ServedModel
from treadle.deploy.serve.engine_thread import Answering, EngineThread
from treadle.deploy.serve.metrics import Metrics
from treadle.deploy.serve.preparing import Preparing, Wanted
from treadle.runtime.answer.outputs import Delta
from treadle.runtime.request import SamplingParams

__all__ = ["Answers", "Prepared", "Serving"]

T = TypeVar("T")
Prepared = tuple[list[int], SamplingParams]
"""The tokens of a prompt, and how it is to be answered."""


class Serving:
    """One server's models and what limits them."""

    def __init__(
        self,
        catalogue: Catalogue,
        limits: ServerLimits,
        tool_format: str = "auto",
        reasoning_parser: str = "auto",
    ) -> None:
        self.catalogue, self.limits = catalogue, limits
        self.tool_format, self.reasoning_parser = tool_format, reasoning_parser
        self.metrics = Metrics(catalogue.llms)
        self.engine = EngineThread(list(catalogue.llms.values()))
        self.is_draining = False
        self.num_generating = 0
        """Answers that are not finished yet."""
        self.num_inside = 0
        """HTTP requests that are not answered yet."""
        self.open: set[Answers] = set()
        self.preparing = Preparing()

    def refuse(self, status: int) -> None:
        """Count a request that was refused."""
        self.metrics.refuse(status)

    def new_id(self, prefix: str) -> str:
        """Return an id that no other answer has."""
        return f"{prefix}-{secrets.token_hex(12)}"

    def client_of(self, request: Request, user: str | None) -> str:
        """Return between whom the server is fair: keys, else users, else addresses."""
        key: str | None = request.scope.get("treadle.key")
        if key is not None:
            return f"key {key}"
        return f"user {user}" if user else f"host {request.client.host if request.client else ''}"

    @property
    def num_tokens_open(self) -> int:
        """Tokens generated for answers that are not finished."""
        parts = (part for answers in self.open for part in answers.parts)
        return sum(request.num_new for part in parts for request in part.requests)

    def require_room(self, num_answers: int) -> None:
        """Refuse what goes beyond what may run and wait.

        Raises:
            ApiError: Too many run and wait already, or so many answers never have room.
        """
        most = self.limits.max_requests
        if num_answers > most:
            raise ApiError(
                400,
                f"{num_answers} answers are asked for at once, and this server takes {most}; send "
                f"several requests, or raise its --max-requests.",
                "too_many_answers",
            )
        if self.num_generating + num_answers > most:
            raise ApiError(
                429,
                f"{self.num_generating} answers run or wait, {num_answers} more are asked for, and "
                f"this server takes {most}; try again later.",
                "queue_full",
                headers={"Retry-After": "1"},
            )

    async def prepared(
        self, request: Request, num_characters: int, work: Callable[[Wanted], T]
    ) -> T:
        """Run work that precedes an answer where it holds nobody up; see `Preparing`."""
        return await self.preparing.run(self.client_of(request, None), num_characters, work)

    async def ask(
        self,
        request: Request,
        asked: AskedGeneration,
        model: ServedModel,
        num_answers: int,
        prepare: Callable[[Wanted], list[Prepared]],
    ) -> "Answers":
        """Let prompts wait for their turn.

        Args:
            request: Of the client.
            asked: Its body.
            model: Which answers.
            num_answers: To all prompts together.
            prepare: Returns the prompts' tokens, and how to answer each; runs beside the event loop
                once there is room for the answers.

        Raises:
            ApiError: The queue is full, or the engine refuses one of the prompts.
        """
        self.require_room(num_answers)
        answers = Answers(self, model, num_answers)
        answers.entering = asyncio.ensure_future(self._enter(request, asked, model, prepare))
        try:
            answers.parts = await answers.entering
        except TreadleError as error:
            answers.close()
            raise from_treadle(error) from error
        except asyncio.CancelledError:
            answers.close()
            if answers.error is not None:
                raise answers.error from None
            raise
        except BaseException:
            answers.close()
            raise
        return answers

    async def _enter(
        self,
        request: Request,
        asked: AskedGeneration,
        model: ServedModel,
        prepare: Callable[[Wanted], list[Prepared]],
    ) -> list[Answering]:
        length = int(request.scope.get("treadle.body_bytes", 0))
        return await self.engine.submit(
            model.llm,
            await self.prepared(request, length, prepare),
            bool(asked.stream),
            client=self.client_of(request, asked.user),
            priority=asked.priority or 0,
            cache_salt=asked.cache_salt or "",
            adapter=model.adapter,
            timeout_seconds=self.limits.timeout_seconds,
        )

    def abort(self) -> None:
        """End what was not done when the time to shut down was over, with an error for each."""
        error = ApiError(
            503,
            "The server shut down before the answer was done; try another, or again later.",
            "shut_down",
            headers={"Retry-After": "5", "Connection": "close"},
        )
        for answers in list(self.open):
            answers.abort(error)


class Answers:
    """The answers to the prompts of one HTTP request."""

    def __init__(self, serving: Serving, model: ServedModel, num_answers: int) -> None:
        self._serving, self._model, self._num_answers = serving, model, num_answers
        self.parts: list[Answering] = []
        """One for each prompt, once the engine has taken them."""
        self.entering: asyncio.Task[list[Answering]] | None = None
        """What brings them to the engine."""
        self.error: ApiError | None = None
        """Why they were aborted."""
        self.held: list[tuple[int, Delta]] | None = None
        """Their pieces, where these were kept back until all had come."""
        self._is_closed = False
        serving.open.add(self)
        serving.num_generating += num_answers

    def abort(self, error: ApiError) -> None:
        """Let whoever waits for them or reads them find an error next."""
        self.error = error
        if self.entering is not None:
            self.entering.cancel()
        for part in self.parts:
            part.put(error)

    def close(self) -> None:
        """Let go of what is unfinished, and count what became of all."""
        if self._is_closed:
            return
        self._is_closed = True
        self._serving.open.discard(self)
        self._serving.num_generating -= self._num_answers
        for part in self.parts:
            self._serving.engine.cancel(part)
            self._serving.metrics.count(self._model.name, part.requests)

    @asynccontextmanager
    async def closing(self) -> AsyncIterator["Answers"]:
        """Close the answers when the block is left, however it is left."""
        try:
            yield self
        finally:
            self.close()

    async def pieces(self) -> AsyncIterator[tuple[int, Delta]]:
        """Give the pieces of all answers as they come, each with its place.

        Raises:
            ApiError: An answer takes too long, or cannot be finished.
        """
        if self.held is not None:
            for kept in self.held:
                yield kept
            return
        merged: asyncio.Queue[tuple[int, Delta | Exception]] = asyncio.Queue()

        async def forward(first: int, part: Answering) -> None:
            try:
                async for delta in part:
                    merged.put_nowait((first + delta.index, delta))
            except Exception as error:  # raised below, where it is awaited
                merged.put_nowait((first, error))

        firsts = itertools.accumulate([0, *(len(part.requests) for part in self.parts)])
        tasks = [
            asyncio.create_task(forward(first, part))
            for first, part in zip(firsts, self.parts, strict=False)
        ]
        num_open = sum(len(part.requests) for part in self.parts)
        try:
            while num_open:
                place, piece = await merged.get()
                if isinstance(piece, Exception):
                    raise _as_api_error(piece)
                self._require_time(piece)
                num_open -= piece.finish_reason is not None
                yield place, piece
        finally:
            for task in tasks:
                task.cancel()

    def _require_time(self, piece: Delta) -> None:
        if piece.finish_reason == "deadline":
            raise ApiError(
                504,
                f"The answer was not finished within {self._serving.limits.timeout_seconds:g} "
                f"seconds; lower max_tokens, or raise the server's --timeout-seconds.",
                "timeout",
            )

    def usage(self, tokens: list[list[int]]) -> dict[str, Any]:  # Any: JSON values
        """Return how many tokens were read and written; `tokens` are the answers'."""
        first = [part.requests[0] for part in self.parts]
        read, written = sum(r.num_prompt for r in first), sum(map(len, tokens))
        return {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
            "prompt_tokens_details": {
                "cached_tokens": sum(min(r.num_cached, r.num_prompt) for r in first)
            },
        }


def _as_api_error(error: Exception) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, TreadleError):
        return from_treadle(error)
    return ApiError(
        500,
        f"The model failed ({type(error).__name__}: {error}); the server's log says where.",
        "engine_error",
    )
