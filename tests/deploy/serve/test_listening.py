"""Where a server listens: IPv4, IPv6, Unix sockets; what it prints, and what it refuses."""

import logging
import os
import socket
import stat
import threading
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from treadle.core.errors import SettingsError
from treadle.deploy.http.addresses import unix_socket, url_of
from treadle.deploy.http.limits import ServerLimits
from treadle.deploy.http.server import Server, listen
from treadle.deploy.serve import opening
from treadle.deploy.serve.app import make_app
from treadle.deploy.serve.apply import serve
from treadle.deploy.serve.catalogue import Catalogue
from treadle.deploy.serve.door import Door, open_door
from treadle.deploy.serve.serving import Serving

from .servers import loaded

HAS_IPV6 = socket.has_ipv6 and Path("/proc/net/if_inet6").exists()
needs_ipv6 = pytest.mark.skipif(not HAS_IPV6, reason="needs IPv6")


@contextmanager
def answering(chatty: Path, door: Door, is_behind_proxy: bool = False):
    serving = Serving(Catalogue(loaded(chatty)), ServerLimits(), "auto")
    server = Server(make_app(serving, [], door.visitors), serving, is_behind_proxy=is_behind_proxy)
    thread = threading.Thread(target=server.run, args=([door.socket],))
    thread.start()
    try:
        yield serving
    finally:
        server.should_exit = True
        thread.join(30)


def door(host: str = "127.0.0.1", port: int = 0, uds: Path | None = None, **more):
    rules = {"uds_mode": "600", "hosts": (), "origins": (), **more}
    return open_door(host, 8000 if uds else port, uds, **rules)


def client_seen(serving: Serving, web: httpx.Client) -> str:
    """Return who asks, where a proxy on this machine says it."""
    seen = []
    serving.client_of = lambda request, user: seen.append(request.client.host) or ""
    body = {"prompt": "a", "max_tokens": 1}
    web.post("/v1/completions", json=body, headers={"X-Forwarded-For": "10.1.1.1"})
    return seen[0]


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("192.168.1.7", "http://192.168.1.7:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::1", "http://[::1]:8000"),
        ("::", "http://[::1]:8000"),
        ("fe80::1%eth0", "http://[fe80::1%25eth0]:8000"),
    ],
)
def test_what_is_printed_is_a_url(address, url):
    assert url_of(address, 8000) == url
    assert httpx.URL(url_of(address, 8000)).port == 8000


@needs_ipv6
@pytest.mark.parametrize("host", ["::1", "[::1]", "::"])
def test_a_server_on_ipv6_answers_at_the_url_that_it_prints(chatty, host, caplog):
    with door(host) as found, answering(chatty, found) as serving:
        assert found.address.startswith("http://[::1]:")
        with httpx.Client(base_url=found.address) as web:
            assert client_seen(serving, web) == "10.1.1.1"
        assert httpx.get(f"{found.address}/health").status_code == 200
        evil = httpx.get(f"{found.address}/health", headers={"Host": "evil.example"})
        assert evil.status_code == 403
        other = httpx.get(f"{found.address}/health", headers={"Host": "[2001:db8::1]:9"})
        assert other.status_code == (200 if host == "::" else 403)
        assert found.is_public is (host == "::")


def test_names_where_it_listens_everywhere(chatty):
    with door("0.0.0.0") as found, answering(chatty, found):
        assert found.is_public
        with httpx.Client(base_url=found.address) as web:
            for host in ("10.0.0.9:8000", socket.gethostname(), "localhost"):
                assert web.get("/status", headers={"Host": host}).status_code == 200
            assert web.get("/status", headers={"Host": "evil.example"}).status_code == 403
    with door("localhost") as found:
        assert not found.is_public
        assert found.address.startswith("http://127.0.0.1:")


def test_a_unix_socket(chatty, tmp_path):
    path = tmp_path / "treadle.sock"
    with door(uds=path) as found:
        assert found.address == f"unix:{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        transport = httpx.HTTPTransport(uds=str(path))
        with (
            answering(chatty, found, is_behind_proxy=True) as serving,
            httpx.Client(transport=transport, base_url="http://anything") as web,
        ):
            body = {"prompt": "a", "max_tokens": 1}
            assert web.post("/v1/completions", json=body).status_code == 200
            assert web.get("/status", headers={"Origin": "http://evil"}).status_code == 403
            assert client_seen(serving, web) == "10.1.1.1"
            with pytest.raises(SettingsError, match="A server listens on"):
                door(uds=path).__enter__()
    assert not path.exists()


def test_what_stands_where_the_unix_socket_goes(tmp_path):
    before = os.umask(0)
    os.umask(before)
    stale, file = tmp_path / "stale", tmp_path / "file"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(stale))
    with unix_socket(stale, 0o660) as found:
        assert stat.S_IMODE(stale.stat().st_mode) == 0o660
        assert found.getsockname() == str(stale)
        stale.unlink()
        stale.write_text("somebody else's")
    assert stale.read_text() == "somebody else's"
    file.write_text("precious")
    (tmp_path / "link").symlink_to(stale)
    for path in (file, tmp_path, tmp_path / "link"):
        with pytest.raises(SettingsError, match="is no socket"):
            unix_socket(path, 0o600).__enter__()
    assert file.read_text() == "precious"
    for path in (tmp_path / ("x" * 120), tmp_path / "nowhere" / "s"):
        with pytest.raises(SettingsError, match=r"Cannot listen on the Unix socket .*short path"):
            unix_socket(path, 0o600).__enter__()
    umask = os.umask(0)
    os.umask(umask)
    assert umask == before


def test_settings_of_the_door_that_contradict(tmp_path):
    path = tmp_path / "s"
    with pytest.raises(SettingsError, match="--host or --port beside --uds"):
        open_door("127.0.0.1", 80, path, "600", (), ()).__enter__()
    for mode in ("rw", "9", "0", "1777", ""):
        with pytest.raises(SettingsError, match=r"Found --uds-mode .* such as 600"):
            door(uds=path, uds_mode=mode).__enter__()
    with pytest.raises(SettingsError, match="Found --allow-origin 'null'"):
        serve(["a=b"], allow_origin=("null",))
    with pytest.raises(SettingsError, match="Found --allow-host 'http://x'"):
        serve(["a=b"], allow_host=("http://x",))
    with pytest.raises(SettingsError, match=r"Cannot listen on \[2001:db8::1\]:"):
        listen("2001:db8::1", 0)
    for host in ("no such host", "256.1.1.1", "x" * 70):
        with pytest.raises(SettingsError, match="Cannot listen on"):
            listen(host, 0)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"host": "0.0.0.0"}, "Other machines can reach this server, and it asks for no key"),
        ({"host": "0.0.0.0", "api_key": ("k",)}, ""),
        ({"allow_origin": ("*",)}, "All pages of the web can reach this server"),
        ({"allow_origin": ("*",), "api_key": ("k",)}, ""),
        ({"allow_origin": ("http://localhost:3000",)}, ""),
        ({}, ""),
    ],
)
def test_a_warning_where_strangers_may_come_in(given, says, chatty, monkeypatch, caplog):
    monkeypatch.setattr(opening, "open_all", lambda *_: opening.Opened(loaded(chatty), []))
    monkeypatch.setattr(Server, "run", lambda *_: None)
    with caplog.at_level(logging.INFO):
        serve([f"a={chatty}"], port=0, **given)
    assert says in caplog.text
    assert ("WARNING" in caplog.text) is bool(says)
    assert "Serving tiny at http://127.0.0.1:" in caplog.text
