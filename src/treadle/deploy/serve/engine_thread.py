"""The one thread that steps the models; the event loop hands it jobs and reads what comes of them.

It sleeps while nothing is asked. Between two steps it runs the jobs that came meanwhile, so that no
call of the event loop ever waits for the lock of a model.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from treadle.runtime.answer.outputs import Delta
from treadle.runtime.llm import LLM
from treadle.runtime.request import Request, RequestError, RequestState, SamplingParams

__all__ = ["Answering", "EngineThread"]

_logger = logging.getLogger(__name__)
_IDLE_SECONDS = 0.05
"""How long the thread rests where requests wait and none can run."""
T = TypeVar("T")
News = Delta | Exception


class Answering:
    """The answers to one prompt on their way from the engine to the event loop."""

    def __init__(self, llm: LLM, requests: list[Request], is_streamed: bool) -> None:
        self.llm, self.requests, self.is_streamed = llm, requests, is_streamed
        self.places = {request.id: place for place, request in enumerate(requests)}
        self.seen = dict.fromkeys(self.places, 0)
        self.num_open = len(requests)
        self._news: asyncio.Queue[News] = asyncio.Queue()

    def put(self, news: News) -> None:
        """Take in a piece; called in the event loop."""
        self._news.put_nowait(news)

    async def __aiter__(self) -> AsyncIterator[Delta]:
        """Give the pieces as they come; whole answers unless they are streamed.

        Raises:
            RequestError: An answer cannot keep its form.
            Exception: The engine's, if it failed.
        """
        num_open = len(self.requests)
        while num_open:
            news = await self._news.get()
            if isinstance(news, Exception):
                raise news
            num_open -= news.finish_reason is not None
            yield news


class EngineThread:
    """Runs jobs and steps for several models, on a thread of its own."""

    def __init__(self, llms: Sequence[LLM]) -> None:
        self._open: dict[LLM, dict[str, Answering]] = {llm: {} for llm in llms}
        self._jobs: list[Callable[[], None]] = []
        self._wake = threading.Condition()
        self._is_stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="treadle-engine", daemon=True)

    def start(self) -> None:
        """Start; called in the event loop that is to be told the news."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """End the thread once its step is done; unfinished requests stay as they are."""
        with self._wake:
            self._is_stopping = True
            self._wake.notify()
        await asyncio.to_thread(self._thread.join)

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._thread.is_alive()

    async def call(self, function: Callable[[], T]) -> T:
        """Run a function between two steps and return what it returns."""
        done: Future[T] = Future()

        def job() -> None:
            if done.set_running_or_notify_cancel():
                try:
                    done.set_result(function())
                except Exception as error:  # handed to the caller
                    done.set_exception(error)

        self.hand_over(job)
        return await asyncio.wrap_future(done)

    async def submit(
        self,
        llm: LLM,
        prompts: Sequence[tuple[list[int], SamplingParams]],
        is_streamed: bool,
        **options: Any,  # Any: of `LLM.submit`
    ) -> list[Answering]:
        """Let prompts wait for their turn: all of them, or none.

        Raises:
            TreadleError: The engine refuses one of them; see `LLM.submit`.
        """
        return await self.take(
            lambda: self._enter(llm, prompts, is_streamed, options),
            self._cancel_all,
        )

    async def take(self, make: Callable[[], T], let_go: Callable[[T], None]) -> T:
        """Return what a function makes between two steps.

        Args:
            make: Runs in the engine's thread.
            let_go: Takes what was made where whoever asked for it left meanwhile.
        """
        task = asyncio.ensure_future(self.call(make))

        def drop(done: "asyncio.Task[T]") -> None:
            if not done.cancelled() and done.exception() is None:
                let_go(done.result())

        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(drop)
            raise

    def _enter(
        self,
        llm: LLM,
        prompts: Sequence[tuple[list[int], SamplingParams]],
        is_streamed: bool,
        options: dict[str, Any],  # Any: of `LLM.submit`
    ) -> list[Answering]:
        entered: list[Answering] = []
        try:
            for tokens, params in prompts:
                requests = llm.submit(tokens, params, **options)
                entered.append(Answering(llm, requests, is_streamed))
        except Exception:
            for answering in entered:
                llm.close(answering.requests)
            raise
        for answering in entered:
            self._open[llm].update(dict.fromkeys(answering.places, answering))
        return entered

    def _cancel_all(self, answerings: list[Answering]) -> None:
        for answering in answerings:
            self.cancel(answering)

    def cancel(self, answering: Answering) -> None:
        """Let go of a prompt's unfinished answers and their pages."""
        self.hand_over(lambda: self._close(answering))

    def hand_over(self, job: Callable[[], None]) -> None:
        """Let a job run between two steps; nobody is told what becomes of it."""
        with self._wake:
            self._jobs.append(job)
            self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._jobs or any(self._open.values()) or self._is_stopping):
                    self._wake.wait()
                if self._is_stopping:
                    return
                jobs, self._jobs = self._jobs, []
            for job in jobs:
                job()
            for llm, answerings in self._open.items():
                if answerings:
                    self._step(llm)

    def _step(self, llm: LLM) -> None:
        num_rows = llm.num_rows
        try:
            changed = [event.request for event in llm.step()]
        except RequestError as error:
            self._fail(error.request, error)
            changed = self._requests(llm)
        except Exception as error:  # whatever a model raises must not end the thread
            _logger.exception("A step failed, and with it all unfinished requests of its model")
            for request in self._requests(llm):
                self._fail(request, error)
            return
        if changed:
            self._tell(llm, changed)
        elif llm.num_rows == num_rows:
            with self._wake:
                if not self._jobs:
                    self._wake.wait(_IDLE_SECONDS)

    def _requests(self, llm: LLM) -> list[Request]:
        return [answering.requests[answering.places[i]] for i, answering in self._open[llm].items()]

    def _tell(self, llm: LLM, changed: list[Request]) -> None:
        """Hand what is new of requests to the event loop, in one call."""
        news: list[tuple[Answering, News]] = []
        for request in changed:
            answering = self._open[llm].get(request.id)
            is_finished = request.state is RequestState.FINISHED
            if answering is None or not (answering.is_streamed or is_finished):
                continue
            delta = llm.delta(request, answering.places[request.id], answering.seen)
            if delta is not None:
                news.append((answering, delta))
            if is_finished:
                del self._open[llm][request.id]
                answering.num_open -= 1
                if not answering.num_open:
                    llm.close(answering.requests)
        self._deliver(news)

    def _fail(self, request: Request, error: Exception) -> None:
        for answerings in self._open.values():
            answering = answerings.get(request.id)
            if answering is not None and request in answering.requests:
                self._close(answering)
                self._deliver([(answering, error)])

    def _close(self, answering: Answering) -> None:
        answering.llm.close(answering.requests)
        for request_id in answering.places:
            self._open[answering.llm].pop(request_id, None)

    def _deliver(self, news: list[tuple[Answering, News]]) -> None:
        def put() -> None:
            for answering, piece in news:
                answering.put(piece)

        assert self._loop is not None
        if news and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(put)
