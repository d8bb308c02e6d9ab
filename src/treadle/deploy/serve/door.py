"""Where a server listens, what it is called there, and who may come in."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from treadle.core.errors import SettingsError
from treadle.deploy.http.addresses import unix_socket, url_of
from treadle.deploy.http.server import listen
from treadle.deploy.http.visitors import Visitors, is_loopback, names_of_machine

__all__ = ["Door", "open_door"]

_HOST, _PORT = "127.0.0.1", 8000
"""The defaults of `serve`: where they were changed, they are meant."""
_MOST_MODE = 0o777


class Door(NamedTuple):
    """An open socket and its rules."""

    socket: socket.socket
    address: str
    """What clients are told: a URL, or unix: and a path."""
    visitors: Visitors
    is_public: bool
    """Whether other machines can reach it."""


@contextmanager
def open_door(
    host: str,
    port: int,
    uds: Path | None,
    uds_mode: str,
    hosts: Sequence[str],
    origins: Sequence[str],
) -> Iterator[Door]:
    """Listen as long as the block lasts.

    Raises:
        SettingsError: That cannot be listened on, or a setting contradicts another.
    """
    if uds is not None:
        if (host, port) != (_HOST, _PORT):
            raise SettingsError(
                f"Found --host or --port beside --uds {uds}, which listens on no port; leave them "
                f"out."
            )
        visitors = Visitors(hosts=hosts, origins=origins, takes_any_name=True)
        with unix_socket(uds, _mode(uds_mode)) as found:
            yield Door(found, f"unix:{uds.resolve()}", visitors, False)
        return
    Visitors(hosts=hosts, origins=origins)  # refuses before anything is opened
    with listen(host, port) as found:
        address, port = found.getsockname()[:2]
        here = is_loopback(address)
        names = [] if here else names_of_machine()
        visitors = Visitors(
            [host.removeprefix("[").removesuffix("]"), address, *names],
            hosts,
            origins,
            takes_any_address=ip_address(address.partition("%")[0]).is_unspecified,
        )
        yield Door(found, url_of(address, port), visitors, not here)


def _mode(text: str) -> int:
    try:
        found = int(text, 8)
    except ValueError:
        found = -1
    if not 0 < found <= _MOST_MODE:
        raise SettingsError(
            f"Found --uds-mode '{text}', expected a mode as chmod writes it, such as 600 or 660; "
            f"change it."
        )
    return found
