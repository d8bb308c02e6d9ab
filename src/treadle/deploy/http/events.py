"""Server-sent events: pieces of an answer as they come."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

from starlette.responses import Response, StreamingResponse

from treadle.deploy.http.errors import ApiError
from treadle.deploy.http.served import Closable

__all__ = ["OPENAI", "PAUSE_SECONDS", "Dialect", "stream"]

_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""The second keeps nginx from collecting the pieces."""
PAUSE_SECONDS = 10.0
"""Half of what the hastiest proxies and clients wait for."""
Plain = dict[str, Any]
"""JSON values."""


class Dialect(NamedTuple):
    """How an interface writes its streams."""

    is_named: bool
    """Whether each event has its type as its name."""
    pause: bytes
    """What is sent where nothing is to be said."""
    end: bytes
    """What follows the last event."""
    failure: Callable[[ApiError], Plain]
    """Returns the event of an error."""


OPENAI = Dialect(False, b": still at work\n\n", b"data: [DONE]\n\n", ApiError.to_dict)


def stream(answers: Closable, chunks: AsyncIterator[Plain], dialect: Dialect = OPENAI) -> Response:
    """Return a response that sends each chunk as an event; answers end when the client leaves.

    Where nothing is to be sent for a while, a sign of life is, so that nobody between here and the
    client takes the connection for dead.
    """

    async def lines() -> AsyncIterator[bytes]:
        async with answers.closing():
            try:
                async for chunk in _or_pause(chunks):
                    yield dialect.pause if chunk is None else _event(chunk, dialect.is_named)
            except ApiError as error:  # the status is sent already
                yield _event(dialect.failure(error), dialect.is_named)
                return
            yield dialect.end

    return _Closing(answers, lines(), headers=_HEADERS, media_type="text/event-stream")


async def _or_pause(chunks: AsyncIterator[Plain]) -> AsyncIterator[Plain | None]:
    """Give the chunks, and None whenever none has come for a while."""
    ahead: asyncio.Future[Plain] | None = None
    try:
        while True:
            ahead = ahead or asyncio.ensure_future(anext(chunks))
            await asyncio.wait((ahead,), timeout=PAUSE_SECONDS)
            if not ahead.done():
                yield None
                continue
            try:
                chunk = ahead.result()
            except StopAsyncIteration:
                return
            ahead = None
            yield chunk
    finally:
        if ahead is not None:
            ahead.cancel()


def _event(chunk: Plain, is_named: bool) -> bytes:
    name = f"event: {chunk['type']}\n".encode() if is_named else b""
    return name + b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"


class _Closing(StreamingResponse):
    """Closes the answers even where the client left before the first piece was asked for."""

    def __init__(self, answers: Closable, *args: Any, **kwargs: Any) -> None:  # Any: as the base's
        super().__init__(*args, **kwargs)
        self._answers = answers

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # Any: ASGI's
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answers.close()
