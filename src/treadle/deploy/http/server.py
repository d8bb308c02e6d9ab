"""The HTTP server: it drains before it ends."""

import logging
import os
import socket
import time
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from treadle.core.errors import SettingsError
from treadle.deploy.http.served import Service

__all__ = ["Server", "listen"]

_logger = logging.getLogger(__name__)
_BACKLOG = 2048
_KEEP_ALIVE_SECONDS = 65
"""Longer than a proxy keeps connections, so that it never sends into a closing one."""
_PROXIES = ("FORWARDED_ALLOW_IPS", "127.0.0.1,::1")
"""Who may say for whom it asks: uvicorn's variable, and both addresses of this machine."""

_LAST_WORDS_SECONDS = 2.0


class Server(uvicorn.Server):
    """Answers 503 to new requests after SIGTERM or Ctrl+C, and ends when the others are done.

    A second signal ends it at once.
    """

    def __init__(self, app: Starlette, served: Service, is_behind_proxy: bool = False) -> None:
        """Take an application.

        Args:
            app: What answers.
            served: What is served.
            is_behind_proxy: Whether whoever connects may say for whom, and not only this machine.
        """
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="on",
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=1,
                server_header=False,
                forwarded_allow_ips="*" if is_behind_proxy else os.environ.get(*_PROXIES),
                ws="none",
            )
        )
        self._served = served
        self._drain_until: float | None = None
        self._end_at: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain, or end at once if that has begun."""
        if self._drain_until is not None:
            self.should_exit = self.force_exit = True
        self.drain()

    def drain(self) -> None:
        """Take no new requests, and end when those inside are done."""
        self._served.is_draining = True
        self._drain_until = time.monotonic() + self._served.limits.drain_seconds

    async def on_tick(self, counter: int) -> bool:
        """Say whether to end now; uvicorn asks ten times a second."""
        if self._drain_until is not None:
            is_late = time.monotonic() > self._drain_until
            if is_late and self._served.num_inside:
                self._end_late()
            if not self._served.num_inside or self._is_over():
                self.should_exit = True
        return await super().on_tick(counter)

    def _end_late(self) -> None:
        """Let requests that are late end with an error; they have a moment to tell it."""
        if self._end_at is None:
            _logger.warning(
                "%d requests were not done in time and are cancelled", self._served.num_inside
            )
            self._end_at = time.monotonic() + _LAST_WORDS_SECONDS
            self._served.abort()

    def _is_over(self) -> bool:
        return self._end_at is not None and time.monotonic() > self._end_at


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 takes a free one.

    Args:
        host: A name or an address; of a name that has both kinds the IPv4 one.
        port: 0 to 65535.

    Raises:
        SettingsError: The port is in use, or the host is none of this machine's.
    """
    bare = host.removeprefix("[").removesuffix("]")
    shown = f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}"
    found: socket.socket | None = None
    try:
        places = socket.getaddrinfo(bare, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, *_, place = min(places, key=lambda entry: entry[0] != socket.AF_INET)
        # With the protocol named, asyncio sends every piece at once (TCP_NODELAY), not 40 ms later.
        found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(place)
        found.listen(_BACKLOG)
    except (OSError, OverflowError, UnicodeError) as error:
        if found is not None:
            found.close()
        raise SettingsError(
            f"Cannot listen on {shown} ({error}); choose another --port (0 takes a free "
            f"one), end the program that has it, or give a --host of this machine."
        ) from error
    return found
