"""What every request passes: who asks, keys, the drain, and errors as OpenAI's clients know them.

Bodies must say that they are JSON: what a page of another site may send without asking first is
text, a form, or of no type at all.
"""

import hmac
import logging
from collections.abc import Sequence
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from treadle.core.errors import TreadleError
from treadle.deploy.http.bodies import CLIENT_GONE, require_json
from treadle.deploy.http.errors import ApiError, from_treadle
from treadle.deploy.http.served import Service
from treadle.deploy.http.visitors import Visitors

__all__ = ["Gate", "on_api_error", "on_failure", "on_gone", "on_http_error"]

_logger = logging.getLogger(__name__)
_OPEN = {"/", "/health", "/metrics", "/openapi.json", "/favicon.ico", "/version"}
"""Paths that need no key."""
_ANSWERS = "treadle.answer_headers"
"""Where a request's scope keeps what a page of another origin must be told."""
_TOLD_SECONDS = "600"
"""How long a browser need not ask again whether it may."""


class Gate:
    """Lets requests in, and counts those that are inside."""

    def __init__(
        self, app: ASGIApp, served: Service, keys: Sequence[str], visitors: Visitors
    ) -> None:
        self._app, self._served, self._visitors = app, served, visitors
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request and pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        told: dict[str, str] = {}
        scope[_ANSWERS] = told
        answer = _telling(send, told) if self._visitors.has_origins else send
        try:
            self._let_in(scope, headers, told)
            if told and _asks_first(scope, headers):
                await _permission(headers)(scope, receive, answer)
                return
            self._check(scope, headers)
        except ApiError as error:
            self._served.refuse(error.status)
            await error.response(scope["path"])(scope, receive, answer)
            return
        self._served.num_inside += 1
        try:
            await self._app(scope, receive, answer)
        finally:
            self._served.num_inside -= 1

    def _let_in(self, scope: Scope, headers: Headers, told: dict[str, str]) -> None:
        """Refuse strangers, and note what an allowed page must be told."""
        if "host" not in headers and scope["http_version"] == "1.1":
            raise ApiError(400, "The request names no Host; send that header.", "host_missing")
        is_visit = scope["method"] in ("GET", "HEAD") and scope["path"] == "/"
        origin = self._visitors.check(headers, is_visit)
        if origin is not None:
            told["Access-Control-Allow-Origin"] = origin
            told["Access-Control-Expose-Headers"] = "Retry-After, x-treadle-routed, x-treadle-asked"

    def _check(self, scope: Scope, headers: Headers) -> None:
        if self._keys and scope["path"] not in _OPEN:
            scope["treadle.key"] = self._key(headers)
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
        if length.strip("0") or "transfer-encoding" in headers:
            require_json(headers)

    def _key(self, headers: Headers) -> str:
        """Return which key was shown, as OpenAI's clients do or as Anthropic's.

        Raises:
            ApiError: None of ours.
        """
        kind, _, given = headers.get("authorization", "").partition(" ")
        shown = [given] if kind.lower() == "bearer" else []
        for text in (*shown, headers.get("x-api-key", "")):
            for number, key in enumerate(self._keys):
                if hmac.compare_digest(key, text.strip().encode()):
                    return str(number)
        raise ApiError(
            401,
            "The API key is missing or wrong; send 'Authorization: Bearer KEY' (or 'x-api-key: "
            "KEY') with a key of this server.",
            "invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )


def _asks_first(scope: Scope, headers: Headers) -> bool:
    """Say whether a browser asks what it may send before it sends it."""
    return scope["method"] == "OPTIONS" and "access-control-request-method" in headers


def _permission(headers: Headers) -> Response:
    """Answer a browser that asks first; no key comes with the question."""
    found = {
        "Access-Control-Allow-Methods": "GET, POST",
        "Access-Control-Allow-Headers": headers.get("access-control-request-headers", "*"),
        "Access-Control-Max-Age": _TOLD_SECONDS,
        "Vary": "Access-Control-Request-Method, Access-Control-Request-Headers",
    }
    if "access-control-request-private-network" in headers:  # a public page, a private machine
        found["Access-Control-Allow-Private-Network"] = "true"
    return Response(status_code=204, headers=found)


def _telling(send: Send, told: dict[str, str]) -> Send:
    """Return what sends answers together with what pages of other origins must be told."""

    async def tell(message: Message) -> None:
        if message["type"] == "http.response.start":
            _tell(MutableHeaders(scope=message), told)
        await send(message)

    return tell


def _tell(headers: MutableHeaders, told: dict[str, str]) -> None:
    headers.update(told)
    headers.add_vary_header("Origin")


async def on_api_error(request: Request, error: Exception) -> Response:
    """Answer with an error of ours, or of the runtime's that nobody below took for one."""
    error = from_treadle(error) if isinstance(error, TreadleError) else error
    assert isinstance(error, ApiError)
    served: Service = request.app.state.served
    served.refuse(error.status)
    return error.response(request.url.path)


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
    return ApiError(error.status_code, message, code, headers=headers).response(request.url.path)


async def on_gone(request: Request, error: Exception) -> Response:
    """Answer nobody: the client left while it sent its body."""
    return Response(status_code=CLIENT_GONE)


async def on_failure(request: Request, error: Exception) -> Response:
    """Answer where our own code failed; the log has the rest."""
    _logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    response = ApiError(
        500, "The server failed; its log says where. Please report it.", "internal_error"
    ).response(request.url.path)
    if told := request.scope.get(_ANSWERS):  # it is sent past the gate
        _tell(response.headers, told)
    return response
