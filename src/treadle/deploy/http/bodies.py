"""What a client sends, read within bounds, and work that ends when the client has left."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from treadle.deploy.http.errors import ApiError
from treadle.deploy.http.limits import ServerLimits

__all__ = ["read_body", "unless_gone"]

T = TypeVar("T")
_CLIENT_GONE = 499
"""Nobody reads it; what nginx notes down for a client that left."""


async def read_body(request: Request, limits: ServerLimits) -> bytes:
    """Return a request's body.

    Raises:
        ApiError: It is too long, or takes too long to come.
    """
    parts: list[bytes] = []
    num_bytes = 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for part in request.stream():
                parts.append(part)
                num_bytes += len(part)
                if num_bytes > limits.max_body_bytes:
                    raise ApiError(
                        413,
                        f"The body is longer than {limits.max_body_bytes} bytes; send less, or "
                        f"raise the server's --max-body-bytes.",
                        "body_too_large",
                    )
    except TimeoutError as error:
        raise ApiError(
            408,
            f"The body did not come within {limits.body_seconds:g} seconds; send it at once.",
            "timeout",
        ) from error
    request.scope["treadle.body_bytes"] = num_bytes
    return b"".join(parts)


async def unless_gone(request: Request, work: Callable[[], Awaitable[T]]) -> T | Response:
    """Do work, but stop it as soon as the client has left."""

    async def leave() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    doing, leaving = asyncio.ensure_future(work()), asyncio.create_task(leave())
    try:
        await asyncio.wait((doing, leaving), return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        return Response(status_code=_CLIENT_GONE)
    except ClientDisconnect:
        return Response(status_code=_CLIENT_GONE)
    finally:
        leaving.cancel()
        if not doing.done():
            doing.cancel()
