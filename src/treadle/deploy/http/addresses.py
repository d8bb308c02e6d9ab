"""Where a server listens: an address and a port as a URL, or a Unix socket as a file."""

import ipaddress
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from treadle.core.errors import SettingsError

__all__ = ["unix_socket", "url_of"]

_BACKLOG = 2048


def url_of(address: str, port: int) -> str:
    """Return the URL of a server at an address; one that listens everywhere is also here."""
    plain, _, zone = address.partition("%")
    found = ipaddress.ip_address(plain)
    if found.is_unspecified:
        plain = "127.0.0.1" if found.version == 4 else "::1"
    name = f"[{plain}{f'%25{zone}' if zone else ''}]" if ":" in plain else plain
    return f"http://{name}:{port}"


@contextmanager
def unix_socket(path: Path, mode: int) -> Iterator[socket.socket]:
    """Yield a Unix socket that listens at `path`, and remove the file at the end.

    Raises:
        SettingsError: There is something else, a server that listens, or no folder for it.
    """
    _remove_stale(path)
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o777 & ~mode)  # nobody may come in between bind and chmod
    try:
        found.bind(str(path))
        path.chmod(mode)
        found.listen(_BACKLOG)
    except OSError as error:
        found.close()
        raise SettingsError(
            f"Cannot listen on the Unix socket {path} ({error}); give --uds a short path (at most "
            f"107 bytes) in a folder that may be written."
        ) from error
    finally:
        os.umask(before)
    own = path.lstat()
    try:
        yield found
    finally:
        found.close()
        with suppress(OSError):  # somebody has removed it
            if os.path.samestat(own, path.lstat()):
                path.unlink()


def _remove_stale(path: Path) -> None:
    """Remove the socket that a killed server left behind."""
    try:
        kind = path.lstat().st_mode
    except OSError:
        return
    if not stat.S_ISSOCK(kind):
        raise SettingsError(
            f"There is a file at {path} that is no socket; give --uds another path, or remove it."
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asked:
        try:
            asked.connect(str(path))
        except ConnectionRefusedError:
            with suppress(FileNotFoundError):
                path.unlink()
            return
        except OSError as error:
            raise SettingsError(
                f"Cannot tell whether a server listens on {path} ({error}); give --uds another "
                f"path, or remove it."
            ) from error
    raise SettingsError(f"A server listens on {path} already; end it, or give --uds another path.")
