"""A conversation with a model behind an OpenAI-style server, by the standard library alone."""

import http.client
import json
import socket
from collections.abc import Generator, Iterator, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from treadle.core.errors import SettingsError
from treadle.runtime.address import ServerAddress
from treadle.runtime.client import RefusedError

__all__ = ["Piece", "RemoteChat"]

_SECONDS = 600.0
_OWN = ("min_p", "repetition_penalty")
"""Settings that OpenAI does not know; servers that refuse them are asked without."""
_REFUSALS = (400, 422)


class Piece(NamedTuple):
    """What is new of an answer."""

    text: str
    num_tokens: int = 0
    finish_reason: str | None = None


class RemoteChat:
    """One server, one of its models."""

    def __init__(self, address: str, model: str | None, key: str | None) -> None:
        """Find the server; `address` may end with /v1.

        Raises:
            SettingsError: `address` is none, or the server cannot be reached, or refuses the key.
        """
        self._address = ServerAddress.parse(address)
        self._path = urlsplit(self._address.url).path
        self._left_out: set[str] = set()
        self._headers = {"Content-Type": "application/json"}
        if key is not None:
            self._headers["Authorization"] = f"Bearer {key}"
        self._model = model or self._first_model()

    def _first_model(self) -> str:
        with self._send("GET", "/v1/models") as answer:
            found = json.loads(answer.read()).get("data") or []
        if not found:
            raise SettingsError(f"The server at {self._address} has no models; start one with one.")
        return str(found[0]["id"])

    def _send(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> http.client.HTTPResponse:
        connection = _connection(self._address)
        # The answer keeps the socket, and closing it closes that.
        headers = {**self._headers, "Connection": "close"}
        content = None if body is None else json.dumps(body)
        try:
            connection.request(method, self._path + path, content, headers)
            answer = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise SettingsError(
                f"The server at {self._address} cannot be reached ({error}); start one with "
                f"'treadle serve MODEL', or mend the address."
            ) from error
        if answer.status != http.HTTPStatus.OK:
            with answer:
                text = answer.read().decode(errors="replace")
            message = f"The server at {self._address} refused: {_message(text, answer.status)}"
            raise RefusedError(message, answer.status)
        return answer

    def _ask(self, body: dict[str, Any]) -> http.client.HTTPResponse:  # Any: JSON values
        """Ask for an answer; again without the settings that the server does not take."""
        asked = {name: value for name, value in body.items() if name not in self._left_out}
        try:
            return self._send("POST", "/v1/chat/completions", asked)
        except RefusedError as error:
            refused = _too_much(error, asked)
            if not refused:
                raise
        self._left_out |= refused & set(_OWN)
        return self._ask({name: value for name, value in asked.items() if name not in refused})

    def answer(
        self, messages: Sequence[dict[str, str]], sampling: dict[str, Any]
    ) -> Generator[Piece]:
        """Give the pieces of the next message, and at the end its number of tokens.

        An answer ends where the context does, however many tokens it may have.

        Raises:
            SettingsError: The server refuses or breaks off.
        """
        body = {
            "model": self._model,
            "messages": list(messages),
            "stream": True,
            "stream_options": {"include_usage": True},
            **{name: value for name, value in sampling.items() if value is not None},
        }
        with self._ask(body) as answer:
            for line in self._lines(answer):
                if not line.startswith(b"data:"):  # comments keep a connection alive
                    continue
                data = line.decode(errors="replace").removeprefix("data:").strip()
                if data == "[DONE]":
                    return
                yield from self._piece(data)
        raise SettingsError(f"The server at {self._address} broke off; see its log.")

    def _lines(self, answer: http.client.HTTPResponse) -> Iterator[bytes]:
        try:
            yield from answer
        except (OSError, http.client.HTTPException) as error:
            raise SettingsError(
                f"The server at {self._address} broke off ({error}); see its log."
            ) from error

    def _piece(self, data: str) -> Iterator[Piece]:
        try:
            chunk = json.loads(data)
        except ValueError as error:
            raise SettingsError(
                f"The server at {self._address} sent what is no JSON ({data[:80]!r}); give the "
                f"address of an OpenAI-style server."
            ) from error
        if "error" in chunk:
            raise SettingsError(f"The server at {self._address}: {chunk['error']['message']}")
        for choice in chunk["choices"]:
            text, reason = choice["delta"].get("content"), choice.get("finish_reason")
            if text or reason:
                yield Piece(text or "", 0, reason)
        if usage := chunk.get("usage"):
            yield Piece("", int(usage["completion_tokens"]))


def _too_much(error: RefusedError, asked: dict[str, Any]) -> set[str]:  # Any: JSON values
    """Return the settings that a server refuses and an answer can do without."""
    message = str(error).lower()
    if error.status not in _REFUSALS:
        return set()
    if any(name in message for name in _OWN):
        return set(_OWN) & set(asked)
    is_context = "max_tokens" in message or "context length" in message
    return {"max_tokens"} & set(asked) if is_context else set()


class _UnixConnection(http.client.HTTPConnection):
    """A connection through a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_SECONDS)
        self._socket_path = path

    def connect(self) -> None:
        """Connect; the base class calls it."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_SECONDS)
        self.sock.connect(self._socket_path)


def _connection(address: ServerAddress) -> http.client.HTTPConnection:
    if address.socket is not None:
        return _UnixConnection(address.socket)
    parts = urlsplit(address.url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return kind(unquote(parts.netloc.rpartition("@")[2]), timeout=_SECONDS)


def _message(text: str, status: int) -> str:
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"status {status}, {text[:200]}"
