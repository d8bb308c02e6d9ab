"""What the gate, the drain and streams know of a service, whoever answers in it."""

from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from treadle.deploy.http.limits import ServerLimits

__all__ = ["Closable", "Service"]


class Service(Protocol):
    """A service that counts who is inside."""

    limits: ServerLimits
    is_draining: bool
    """Whether new requests are refused."""
    num_inside: int
    """HTTP requests that are not answered yet."""

    def refuse(self, status: int) -> None:
        """Count a request that was refused."""

    def abort(self) -> None:
        """End what is not done, with an error for each; the time to shut down is over."""


class Closable(Protocol):
    """Answers that end when nobody reads them any more."""

    def closing(self) -> AbstractAsyncContextManager[Any]:  # Any: what it gives
        """Close them at the end of a block."""

    def close(self) -> None:
        """End what still runs."""
