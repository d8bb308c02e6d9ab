"""What every request passes: keys, the drain, and errors as OpenAI's clients know them."""

import hmac
import logging
from collections.abc import Sequence
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from treadle.deploy.http.errors import ApiError
from treadle.deploy.http.served import Service

__all__ = ["Gate", "on_api_error", "on_failure", "on_http_error"]

_logger = logging.getLogger(__name__)
_OPEN = {"/", "/health", "/metrics", "/openapi.json", "/favicon.ico"}
"""Paths that need no key."""


class Gate:
    """Lets requests in, and counts those that are inside."""

    def __init__(self, app: ASGIApp, served: Service, keys: Sequence[str]) -> None:
        self._app, self._served = app, served
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request and pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope)
        except ApiError as error:
            self._served.refuse(error.status)
            await error.response()(scope, receive, send)
            return
        self._served.num_inside += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._served.num_inside -= 1

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if self._keys and scope["path"] not in _OPEN:
            scope["treadle.key"] = self._key(headers.get("authorization", ""))
        if self._served.is_draining and scope["method"] == "POST":
            raise ApiError(
                503,
                "The server is shutting down and takes no new requests; try another, or again "
                "later.",
                "draining",
                headers={"Retry-After": "5", "Connection": "close"},
            )
        length = headers.get("content-length", "")
        most = self._served.limits.max_body_bytes
        if length.isdigit() and int(length[:20]) > most:
            raise ApiError(
                413,
                f"The body has {length[:20]} bytes, and this server takes {most}; send less, or "
                f"raise its --max-body-bytes.",
                "body_too_large",
                headers={"Connection": "close"},
            )

    def _key(self, header: str) -> str:
        """Return which key was shown.

        Raises:
            ApiError: None of ours.
        """
        kind, _, given = header.partition(" ")
        if kind.lower() == "bearer":
            for number, key in enumerate(self._keys):
                if hmac.compare_digest(key, given.strip().encode()):
                    return str(number)
        raise ApiError(
            401,
            "The API key is missing or wrong; send 'Authorization: Bearer KEY' with a key of this "
            "server.",
            "invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )


async def on_api_error(request: Request, error: Exception) -> Response:
    """Answer with an error of ours."""
    assert isinstance(error, ApiError)
    served: Service = request.app.state.served
    served.refuse(error.status)
    return error.response()


async def on_http_error(request: Request, error: Exception) -> Response:
    """Answer where there is no such path, or it takes another method."""
    assert isinstance(error, HTTPException)
    text: dict[int, Any] = {  # Any: text
        404: f"There is nothing at {request.url.path[:200]}; /openapi.json lists the paths.",
        405: f"{request.url.path} does not take {request.method}; /openapi.json says what it does.",
    }
    message = text.get(error.status_code, error.detail)
    codes = {404: "not_found", 405: "method_not_allowed"}
    code = codes.get(error.status_code, "http_error")
    headers = error.headers
    return ApiError(error.status_code, message, code, headers=headers).response()


async def on_failure(request: Request, error: Exception) -> Response:
    """Answer where our own code failed; the log has the rest."""
    _logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return ApiError(
        500, "The server failed; its log says where. Please report it.", "internal_error"
    ).response()
