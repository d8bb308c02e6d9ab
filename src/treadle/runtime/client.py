"""A client of OpenAI-style servers: this one's, vLLM's, llama.cpp's and others that speak it."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from treadle.core.errors import SettingsError
from treadle.runtime.address import ServerAddress, key_of_environment

if TYPE_CHECKING:
    import httpx

__all__ = ["Endpoint", "RefusedError", "ServedName"]

_OK = 200
_DONE = "[DONE]"


class RefusedError(SettingsError):
    """A server that answered, but not with what was asked for."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
        """HTTP status; 0 where the connection broke or took too long."""


class ServedName(NamedTuple):
    """A model that a server lists."""

    name: str
    max_length: int | None
    """Tokens of a prompt and its answer, where the server tells."""


class Endpoint:
    """One server. Use it as an asynchronous context manager."""

    def __init__(
        self, address: str, key: str | None = None, timeout_seconds: float = 600.0
    ) -> None:
        """Prepare to ask the server at `address`, which may end with /v1.

        Args:
            address: Such as http://127.0.0.1:8000, http://[::1]:8000 or unix:/run/serve.sock.
            key: Sent as a bearer token; unless given, the one of TREADLE_API_KEY, else that of
                OPENAI_API_KEY.
            timeout_seconds: Longest silence of the server.

        Raises:
            SettingsError: `address` is none of a server, or httpx is not installed.
        """
        place = ServerAddress.parse(address)
        self.address = str(place)
        self._http = _new_client(place, key, timeout_seconds)

    async def __aenter__(self) -> Self:
        """Open it."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def models(self) -> list[ServedName]:
        """Return what the server lists at /v1/models.

        Raises:
            RefusedError: It cannot be reached, or refuses.
        """
        async with self._asked("GET", "/v1/models") as answer:
            found = self._read(await answer.aread()).get("data") or []
        try:
            return [ServedName(str(one["id"]), one.get("max_model_len")) for one in found]
        except (KeyError, TypeError, AttributeError) as error:
            raise RefusedError(
                f"The server at {self.address} lists what are no models ({str(found)[:80]!r}); "
                f"give the address of an OpenAI-style server.",
                _OK,
            ) from error

    async def tokenize(self, model: str, text: str) -> list[int]:
        """Return the tokens of `text` by the server's own tokenizer (/tokenize, as vLLM has it).

        Raises:
            RefusedError: It cannot be reached, or has no such path.
        """
        body = {"model": model, "prompt": text, "add_special_tokens": False}
        async with self._asked("POST", "/tokenize", body) as answer:
            return [int(token) for token in self._read(await answer.aread()).get("tokens", [])]

    async def completion(self, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:  # Any: JSON
        """Send `body` to /v1/completions as a stream, and give its chunks as they come.

        Raises:
            RefusedError: It refuses, breaks off, or sends an error.
        """
        asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
        async with self._asked("POST", "/v1/completions", asked) as answer:
            async for line in answer.aiter_lines():
                data = line.removeprefix("data:").strip()
                if data == _DONE:
                    return
                if data and line.startswith("data:"):
                    yield self._chunk(data)
        raise RefusedError(f"The server at {self.address} broke off; see its log.", 0)

    async def whole(self, path: str, body: dict[str, Any]) -> dict[str, Any]:  # Any: JSON values
        """Send `body` to a path such as /v1/completions, and return the whole answer.

        Raises:
            RefusedError: It cannot be reached, refuses, or sends what is no JSON object.
        """
        async with self._asked("POST", path, body) as answer:
            return self._read(await answer.aread())

    def _chunk(self, data: str) -> dict[str, Any]:  # Any: JSON values
        found: dict[str, Any] = self._read(data)  # Any: JSON values
        if "error" in found:
            error = found["error"]
            status = error.get("status") or error.get("code")
            raise RefusedError(
                f"The server at {self.address}: {error.get('message', error)}",
                status if isinstance(status, int) else 500,
            )
        return found

    def _read(self, text: str | bytes) -> dict[str, Any]:  # Any: JSON values
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise RefusedError(
                f"The server at {self.address} sent what is no JSON object ({text[:80]!r}); give "
                f"the address of an OpenAI-style server.",
                0,
            )
        return found

    @asynccontextmanager
    async def _asked(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,  # Any: JSON values
    ) -> "AsyncIterator[httpx.Response]":
        import httpx

        try:
            async with self._http.stream(method, path, json=body) as answer:
                if answer.status_code != _OK:
                    text = (await answer.aread()).decode(errors="replace")
                    raise RefusedError(
                        f"The server at {self.address} refused {path}: "
                        f"{_message(text, answer.status_code)}",
                        answer.status_code,
                    )
                yield answer
        except httpx.TimeoutException as error:
            raise RefusedError(
                f"The server at {self.address} was silent for too long; raise timeout_seconds.", 0
            ) from error
        except httpx.HTTPError as error:
            raise RefusedError(
                f"The server at {self.address} cannot be reached ({error or type(error).__name__});"
                f" start one with 'treadle serve MODEL', or mend the address.",
                0,
            ) from error


def _new_client(
    place: ServerAddress, key: str | None, timeout_seconds: float
) -> "httpx.AsyncClient":
    try:
        import httpx
    except ModuleNotFoundError as error:
        raise SettingsError(
            "Asking a server needs httpx; run: pip install 'treadle[serve]'"
        ) from error
    key = key or key_of_environment()
    # An open loop opens as many connections as requests are on their way.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    return httpx.AsyncClient(
        base_url=place.url,
        headers={} if key is None else {"Authorization": f"Bearer {key}"},
        timeout=httpx.Timeout(timeout_seconds, connect=min(30.0, timeout_seconds)),
        transport=httpx.AsyncHTTPTransport(uds=place.socket, limits=limits, trust_env=False),
        trust_env=False,
    )


def _message(text: str, status: int) -> str:
    try:
        return f"{json.loads(text)['error']['message']} (status {status})"
    except (ValueError, KeyError, TypeError):
        return f"status {status}, {text[:200]}"
