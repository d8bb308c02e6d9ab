"""A conversation with a model behind an OpenAI-style server, by the standard library alone."""

import http.client
import json
import socket
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

from treadle.core.errors import SettingsError
from treadle.runtime.address import ServerAddress

__all__ = ["RemoteChat"]

_SECONDS = 600.0


class RemoteChat:
    """One server, one of its models."""

    def __init__(self, address: str, model: str | None, key: str | None) -> None:
        """Find the server; `address` may end with /v1.

        Raises:
            SettingsError: `address` is none, or the server cannot be reached, or refuses the key.
        """
        self._address = ServerAddress.parse(address)
        self._path = urlsplit(self._address.url).path
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
            raise SettingsError(
                f"The server at {self._address} refused: {_message(text, answer.status)}"
            )
        return answer

    def answer(
        self, messages: Sequence[dict[str, str]], sampling: dict[str, Any]
    ) -> Iterator[tuple[str, int]]:
        """Give the pieces of the next message, and at the end its number of tokens.

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
        with self._send("POST", "/v1/chat/completions", body) as answer:
            for line in answer:
                data = line.decode().removeprefix("data:").strip()
                if data == "[DONE]":
                    return
                if data:
                    yield from self._piece(json.loads(data))
        raise SettingsError(f"The server at {self._address} broke off; see its log.")

    def _piece(self, chunk: dict[str, Any]) -> Iterator[tuple[str, int]]:
        if "error" in chunk:
            raise SettingsError(f"The server at {self._address}: {chunk['error']['message']}")
        for choice in chunk["choices"]:
            text = choice["delta"].get("content")
            if text:
                yield text, 0
        if usage := chunk.get("usage"):
            yield "", int(usage["completion_tokens"])


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
