"""Who may ask: the names that a server goes by, and the pages that may call it from a browser.

A browser runs the pages of strangers beside the server that listens on this machine only. Three
things tell them apart: a page of another site sends its `Origin`; where a browser leaves that out,
`Sec-Fetch-Site`; and a name that a stranger points at 127.0.0.1 (DNS rebinding) is in `Host`.
"""

import ipaddress
import re
import socket
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from treadle.core.errors import SettingsError
from treadle.deploy.http.errors import ApiError

__all__ = ["Visitors", "is_loopback", "names_of_machine"]

ANY = "*"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_HOST = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9_.-]+))(?::\d*)?")
_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_PORTS = {"http": 80, "https": 443}
"""The ports that an origin leaves out."""
_OWN_SITE = ("", "same-origin", "none")
"""What browsers say of a request that no other site caused; the last is an address typed in."""


class Visitors:
    """Knows the server's own names, and the origins that may call it."""

    def __init__(
        self,
        names: Iterable[str] = (),
        hosts: Sequence[str] = (),
        origins: Sequence[str] = (),
        takes_any_address: bool = False,
        takes_any_name: bool = False,
    ) -> None:
        """Check what is allowed.

        Args:
            names: Names and addresses that the server listens on, beside those of loopback.
            hosts: Further names, such as a proxy's; `*` for all.
            origins: Origins of pages that may call the server; `*` for all.
            takes_any_address: Whether `Host` may be any IP address: no stranger can make one mean
                another machine.
            takes_any_name: Whether `Host` may be anything, as on a Unix socket.

        Raises:
            SettingsError: A host or an origin is none.
        """
        self._takes_any_address = takes_any_address
        self._takes_any_name = takes_any_name or ANY in hosts
        given = [_checked_name(host) for host in hosts if host != ANY]
        self._names = {_plain_name(name) for name in (*_LOOPBACK, *names, *given)}
        self._takes_any_origin = ANY in origins
        self._origins = {_checked_origin(origin) for origin in origins if origin != ANY}

    @property
    def takes_any_origin(self) -> bool:
        """Whether every page of the web may use the server."""
        return self._takes_any_origin

    @property
    def has_origins(self) -> bool:
        """Whether answers depend on the origin of the page that asks."""
        return self._takes_any_origin or bool(self._origins)

    def check(self, headers: Headers, is_visit: bool) -> str | None:
        """Return the foreign origin that is allowed to read the answer, or None.

        Args:
            headers: Of the request.
            is_visit: Whether it asks for a page that every link may lead to.

        Raises:
            ApiError: The server does not go by that name, or the origin is not allowed.
        """
        self._check_host(headers.getlist("host"))
        origins = headers.getlist("origin")
        if not origins:
            self._check_site(headers, is_visit)
            return None
        origin = origins[0] if len(origins) == 1 else ", ".join(origins)
        if self._takes_any_origin:
            return origin
        plain = _plain_origin(origin)
        if plain is not None and plain in self._origins:
            return origin
        if plain is not None and _is_own(plain, headers.get("host", "")):
            return None
        raise _refused_origin(origin)

    def _check_host(self, found: list[str]) -> None:
        if self._takes_any_name or not found:  # HTTP/1.0 knows no Host, and every browser sends it
            return
        if len(found) == 1:
            match = _HOST.fullmatch(found[0])
            name = _plain_name(match["six"] or match["name"]) if match else ""
            if name in self._names or (self._takes_any_address and _is_address(name)):
                return
        shown = ", ".join(found)[:80]
        raise ApiError(
            403,
            f"Found Host '{shown}', and this server does not go by that name; ask for the address "
            f"that it listens on, or start it with --allow-host NAME if it is behind a proxy.",
            "host_not_allowed",
        )

    def _check_site(self, headers: Headers, is_visit: bool) -> None:
        """Refuse what a foreign page caused where the browser does not say which."""
        site = headers.get("sec-fetch-site", "").lower()
        if site in _OWN_SITE or self._takes_any_origin:
            return
        is_page = headers.get("sec-fetch-dest", "").lower() == "document"
        if not (is_visit and is_page and headers.get("sec-fetch-mode", "") == "navigate"):
            raise _refused_origin(f"of another site ({site[:20]})")


def _refused_origin(origin: str) -> ApiError:
    return ApiError(
        403,
        f"A page from the origin '{origin[:80]}' asks, and this server answers only its own; start "
        f"it with --allow-origin URL if pages from there may use it.",
        "origin_not_allowed",
    )


def names_of_machine() -> list[str]:
    """Return the names by which other machines may know this one."""
    name = socket.gethostname()
    short = name.partition(".")[0]
    return [found for found in {name, short, f"{short}.local", socket.getfqdn(name)} if found]


def is_loopback(address: str) -> bool:
    """Say whether an address is reached from this machine only."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _plain_name(name: str) -> str:
    """Return a name as it is compared: small letters, addresses in their short form."""
    name = name.lower().partition("%")[0]
    try:
        found = ipaddress.ip_address(name)
    except ValueError:
        return name.removesuffix(".")
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(mapped or found)


def _checked_name(host: str) -> str:
    bare = host.strip().removeprefix("[").removesuffix("]")
    if not (_NAME.fullmatch(bare) or _is_address(bare)):
        raise SettingsError(
            f"Found --allow-host '{host}', expected a name or an address without scheme and port, "
            f"such as models.example.org, or * for all; change it."
        )
    return bare


def _checked_origin(origin: str) -> tuple[str, str, int | None]:
    found = _plain_origin(origin.strip().removesuffix("/"))
    if found is None:
        raise SettingsError(
            f"Found --allow-origin '{origin}', expected scheme, host and port of a page, such as "
            f"https://app.example.org or http://localhost:3000, or * for all; change it."
        )
    return found


def _plain_origin(origin: str) -> tuple[str, str, int | None] | None:
    """Return an origin's scheme, host and port, None where it is none (such as null)."""
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return None
    name = _plain_name(parts.hostname or "")
    is_bare = not (parts.path or parts.query or parts.fragment or "@" in parts.netloc)
    if not (parts.scheme and name and is_bare):
        return None
    return parts.scheme, name, port or _PORTS.get(parts.scheme)


def _is_own(origin: tuple[str, str, int | None], host: str) -> bool:
    """Say whether a page comes from the server itself, or from the proxy before it."""
    scheme, name, port = origin
    found = _plain_origin(f"{scheme}://{host}") if scheme in _PORTS else None
    return found is not None and found[1:] == (name, port)
