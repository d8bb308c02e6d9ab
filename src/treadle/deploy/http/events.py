"""Server-sent events: pieces of an answer as they come."""

import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from treadle.deploy.http.errors import ApiError
from treadle.deploy.http.served import Closable

__all__ = ["stream"]

_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""The second keeps nginx from collecting the pieces."""
_DONE = b"data: [DONE]\n\n"


def stream(
    request: Request,
    answers: Closable,
    chunks: AsyncIterator[dict[str, Any]],  # Any: JSON values
) -> Response:
    """Return a response that sends each chunk as an event; answers end when the client leaves."""

    async def lines() -> AsyncIterator[bytes]:
        async with answers.closing():
            try:
                async for chunk in chunks:
                    yield _event(chunk)
            except ApiError as error:  # the status is sent already
                yield _event(error.to_dict())
                return
            yield _DONE

    return _Closing(answers, lines(), headers=_HEADERS, media_type="text/event-stream")


def _event(chunk: dict[str, Any]) -> bytes:  # Any: JSON values
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"


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
