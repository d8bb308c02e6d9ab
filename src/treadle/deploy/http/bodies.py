"""What a client sends, read within bounds, and work that ends when the client has left."""

import asyncio
import codecs
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TypeVar

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from treadle.deploy.http.errors import ApiError
from treadle.deploy.http.limits import ServerLimits
from treadle.deploy.http.packing import unpacked
from treadle.deploy.http.served import Service

__all__ = ["CLIENT_GONE", "read_body", "require_json", "unless_gone"]

T = TypeVar("T")
_JSON_KIND = re.compile(r"[a-z0-9!#$&^_.+-]+/[a-z0-9!#$&^_.+-]+\+json")
_LOOK_SECONDS = 0.25
"""How often a body that does not come is asked whether the server still waits for it."""
CLIENT_GONE = 499
"""Nobody reads it; what nginx notes down for a client that left."""


async def read_body(request: Request, limits: ServerLimits) -> bytes:
    """Return a request's body: unpacked, and without a byte order mark.

    Raises:
        ApiError: It is too long, takes too long to come, or is packed in another way than it says.
    """
    body = await _come(request, limits)
    codings = request.headers.getlist("content-encoding")
    pieces = unpacked(body, ",".join(codings)) if codings else None
    if pieces is not None:
        body = b"".join([part async for part in _within(_in_turn(pieces), limits.max_body_bytes)])
    request.scope["treadle.body_bytes"] = len(body)
    return body.removeprefix(codecs.BOM_UTF8)


async def _come(request: Request, limits: ServerLimits) -> bytes:
    """Return what a client sends, unless it takes too long or the server begins to shut down."""
    served: Service = request.app.state.served
    reading = asyncio.ensure_future(_whole(request, limits))
    loop = asyncio.get_running_loop()
    end = loop.time() + limits.body_seconds
    try:
        while not reading.done():
            wait = min(_LOOK_SECONDS, end - loop.time())
            await asyncio.wait((reading,), timeout=max(0.0, wait))
            if reading.done():
                break
            if served.is_draining:
                raise ApiError(
                    503,
                    "The server is shutting down and waits for no more of the body; try another, "
                    "or again later.",
                    "draining",
                    headers={"Retry-After": "5", "Connection": "close"},
                )
            if loop.time() >= end:
                raise ApiError(
                    408,
                    f"The body did not come within {limits.body_seconds:g} seconds; send it at "
                    f"once.",
                    "timeout",
                )
        return reading.result()
    finally:
        reading.cancel()


async def _whole(request: Request, limits: ServerLimits) -> bytes:
    parts = _within(request.stream(), limits.max_body_bytes)
    return b"".join([part async for part in parts])


async def _within(parts: AsyncIterator[bytes], most: int) -> AsyncIterator[bytes]:
    """Give the parts of a body, and refuse it as soon as they are too many bytes."""
    num_bytes = 0
    async for part in parts:
        num_bytes += len(part)
        if num_bytes > most:
            raise ApiError(
                413,
                f"The body is longer than {most} bytes; send less, or raise the server's "
                f"--max-body-bytes.",
                "body_too_large",
            )
        yield part


async def _in_turn(parts: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Give the parts one by one, and let others have their turn in between."""
    for part in parts:
        await asyncio.sleep(0)
        yield part


def require_json(headers: Headers) -> None:
    """Refuse a body that does not say that it is JSON in UTF-8.

    Raises:
        ApiError: It says something else, or nothing: pages of other sites may send such bodies
            without asking first.
    """
    given = headers.get("content-type", "")
    kind, *settings = [part.strip().lower() for part in given.split(";")]
    if kind != "application/json" and not _JSON_KIND.fullmatch(kind):
        found = f"the Content-Type '{given[:80]}'" if given else "no Content-Type"
        raise ApiError(
            415,
            f"Found {found}, expected a body of JSON; add the header, with curl by "
            f"-H 'Content-Type: application/json' (curl -d alone says that it sends a form).",
            "unsupported_media_type",
        )
    for setting in settings:
        name, _, value = setting.partition("=")
        if name.strip() == "charset" and value.strip(' "') not in ("utf-8", "utf8"):
            raise ApiError(
                415,
                f"Found a body in {value.strip(chr(34))[:40]}, expected UTF-8; encode it so, and "
                f"say charset=utf-8 or nothing.",
                "unsupported_charset",
            )


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
        return Response(status_code=CLIENT_GONE)
    except ClientDisconnect:
        return Response(status_code=CLIENT_GONE)
    finally:
        leaving.cancel()
        if not doing.done():
            doing.cancel()
