"""The address of a server as people type it, checked before it is asked; and the key for it."""

import os
import re
from ipaddress import IPv6Address
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from treadle.core.errors import SettingsError

__all__ = ["ServerAddress", "is_address", "is_place", "key_of_environment"]

_KEY_VARIABLES = ("TREADLE_API_KEY", "OPENAI_API_KEY")
_UNIX = "unix:"
_PLACE = re.compile(r"(\[[0-9a-fA-F:]+\]|[\w.-]+):\d+(/.*)?")
_KINDS = ("http://", "https://", _UNIX)


def key_of_environment() -> str | None:
    """Return the key for servers: the first of TREADLE_API_KEY, else that of OPENAI_API_KEY."""
    for name in _KEY_VARIABLES:
        if found := os.environ.get(name, "").split(",")[0].strip():
            return found
    return None


def is_address(text: str) -> bool:
    """Say whether a text is meant as the address of a server, and not as a model."""
    return text.strip().lower().startswith(_KINDS)


def is_place(text: str) -> bool:
    """Say whether a text is a machine's name with a port that lacks http:// to be an address."""
    return bool(_PLACE.fullmatch(text.strip())) and not Path(text).exists()


class ServerAddress(NamedTuple):
    """Where an OpenAI-style server is."""

    url: str
    """Without a slash or /v1 at its end."""
    socket: str | None = None
    """Path of the Unix socket that it listens on, in place of the URL's host."""

    def __str__(self) -> str:
        """Return it as people write it."""
        return self.url if self.socket is None else f"{_UNIX}{self.socket}"

    @classmethod
    def parse(cls, text: str) -> "ServerAddress":
        """Read an address such as http://127.0.0.1:8000, http://[::1]:8000/v1 or unix:/run/serve.

        Raises:
            SettingsError: It is none.
        """
        given = text.strip()
        if not is_address(given):
            raise _refused(text, "start a server with 'treadle serve MODEL'")
        if given.lower().startswith(_UNIX):
            path = given[len(_UNIX) :].removeprefix("//")
            if not path:
                raise _refused(text, "give the path of its socket after unix:")
            return cls("http://localhost", path)
        _check_place(text, given.partition("//")[2].partition("/")[0].rpartition("@")[2])
        try:
            parts = urlsplit(given)
            is_named = bool(parts.hostname) and parts.port != 0
        except ValueError as error:
            raise _refused(text, f"mend it ({error})") from error
        if not is_named:
            raise _refused(text, "give the name of a machine and its port")
        path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
        return cls(f"{parts.scheme}://{parts.netloc}{path}")


def _check_place(text: str, place: str) -> None:
    if place.count(":") > 1 and "[" not in place:
        name, _, port = place.rpartition(":")
        mend = f"[{name}]:{port}" if _is_ipv6(name) else f"[{place}]"
        raise _refused(text, f"write an IPv6 address in brackets, http://{mend}")
    if any(sign.isspace() for sign in place):
        raise _refused(text, "leave out the blank")


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


def _refused(text: str, mend: str) -> SettingsError:
    return SettingsError(
        f"Found the address '{text}', expected one such as http://127.0.0.1:8000; {mend}."
    )
