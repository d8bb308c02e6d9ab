"""Who may ask: hosts, origins, types of bodies, keys; and what comes packed."""

import gzip
import http.client
import json
import socket
import zlib

import httpx
import pytest
import zstandard

from treadle.core.errors import SettingsError
from treadle.deploy.http.limits import ServerLimits
from treadle.deploy.http.visitors import Visitors

from .servers import Running, loaded, running

BODY = {"prompt": "def", "max_tokens": 1}
PAGE = "https://app.example.org"
POSTS = ("/v1/completions", "/v1/chat/completions", "/tokenize", "/nowhere")
GETS = ("/", "/status", "/metrics", "/health", "/version", "/openapi.json", "/v1/models")


def client_of(found: Running) -> httpx.Client:
    return httpx.Client(base_url=found.url, timeout=120)


@pytest.fixture(scope="module")
def open_one(chatty):
    """A server with a key, a proxy's name and a page of its own."""
    visitors = Visitors(hosts=["models.example.org"], origins=[f"{PAGE}/", "app://notes"])
    with running(loaded(chatty), keys=["one"], visitors=visitors) as found, client_of(found) as web:
        yield web


def code_of(answer: httpx.Response) -> str:
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    return answer.json()["error"]["code"]


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LOCALHOST:8000", "localhost.", "127.0.0.1", "127.0.0.1:1", "[::1]"),
        *("[::1]:9000", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]:80"),
    ],
)
def test_the_servers_own_names(web, host):
    assert web.get("/status", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example"),
        *("evil-localhost", "192.168.0.7", "0.0.0.0", "127.1", "[::2]", "::1", "localhost@evil"),
        *("localhost:80:80", "localhost,evil.example", "localhost/evil", "", "models.example.org"),
    ],
)
def test_a_name_that_a_stranger_points_here_is_refused(web, host):
    for path in ("/", "/status", "/metrics"):
        refused = web.get(path, headers={"Host": host})
        assert (refused.status_code, code_of(refused)) == (403, "host_not_allowed")
        assert "--allow-host" in refused.json()["error"]["message"]
    assert web.post("/v1/completions", json=BODY, headers={"Host": host}).status_code == 403


@pytest.mark.parametrize("hosts", ["", "Host: localhost\r\nHost: evil.example\r\n"])
def test_no_name_and_two_names_are_none(server, hosts):
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as sent:
        sent.sendall(f"GET /status HTTP/1.1\r\n{hosts}\r\n".encode())
        assert sent.recv(12) in (b"HTTP/1.1 400", b"HTTP/1.1 403")


def test_names_where_it_listens_everywhere_and_behind_a_proxy(open_one):
    everywhere = Visitors(["loom"], takes_any_address=True)
    from starlette.datastructures import Headers

    for host in ("10.1.2.3:8000", "[fe80::1]:8000", "loom:8000", "localhost"):
        assert everywhere.check(Headers({"host": host}), False) is None
    for host in ("evil.example", "1.2.3.4.nip.io"):
        with pytest.raises(Exception, match="--allow-host"):
            everywhere.check(Headers({"host": host}), False)
    for host in ("a.b", "", "x y"):
        Visitors(takes_any_name=True).check(Headers({"host": host}), False)
        Visitors(hosts=["*"]).check(Headers({"host": host}), False)
    headers = {"Host": "models.example.org", "Authorization": "Bearer one"}
    assert open_one.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "origin",
    [
        *("http://evil.example", "null", "http://localhost:3000", "https://app.example.org.evil"),
        *("http://app.example.org", "https://app.example.org:8443", "file://", "", "nonsense"),
        "http://127.0.0.1",
    ],
)
def test_a_foreign_page_gets_nothing(open_one, origin):
    headers = {"Origin": origin, "Authorization": "Bearer one"}
    for path in GETS:
        refused = open_one.get(path, headers=headers)
        assert (refused.status_code, code_of(refused)) == (403, "origin_not_allowed")
        assert "access-control-allow-origin" not in refused.headers
    for path in POSTS:
        refused = open_one.post(path, json=BODY, headers=headers)
        assert refused.status_code == 403
    ask = {**headers, "Access-Control-Request-Method": "POST"}
    assert open_one.options("/v1/completions", headers=ask).status_code == 403


def test_the_servers_own_page_and_a_proxys_pass(open_one):
    for origin, host in (
        (str(open_one.base_url).rstrip("/"), open_one.base_url.netloc.decode()),
        ("http://localhost", "localhost:80"),
        ("https://models.example.org", "models.example.org"),
        ("https://models.example.org:8443", "models.example.org:8443"),
    ):
        headers = {"Origin": origin, "Host": host, "Authorization": "Bearer one"}
        answer = open_one.post("/v1/completions", json=BODY, headers=headers)
        assert answer.status_code == 200
        assert "access-control-allow-origin" not in answer.headers


def test_an_allowed_page_asks_first_and_reads_answers_and_errors(open_one):
    url = "/v1/chat/completions"
    wanted = "authorization,content-type,x-stainless-os"
    ask = {
        "Origin": PAGE,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": wanted,
        "Access-Control-Request-Private-Network": "true",
    }
    may = open_one.options(url, headers=ask)  # no key comes with it
    assert may.status_code == 204
    assert may.headers["access-control-allow-origin"] == PAGE
    assert "POST" in may.headers["access-control-allow-methods"]
    assert may.headers["access-control-allow-headers"] == wanted
    assert may.headers["access-control-allow-private-network"] == "true"
    assert "Origin" in may.headers["vary"]
    assert "Access-Control-Request-Headers" in may.headers["vary"]
    for origin, key, status in ((PAGE, "one", 404), ("app://notes", "one", 404), (PAGE, "x", 401)):
        headers = {"Origin": origin, "Authorization": f"Bearer {key}"}
        answer = open_one.post(url, json={**BODY, "model": "y"}, headers=headers)
        status = 400 if status == 404 else status
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == origin
        assert answer.headers["vary"] == "Origin"
    stream = {**BODY, "stream": True}
    headers = {"Origin": PAGE, "Authorization": "Bearer one"}
    answer = open_one.post("/v1/completions", json=stream, headers=headers)
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert open_one.get("/health").headers["vary"] == "Origin"
    # Without Access-Control-Request-Method it is no question of a browser.
    assert open_one.options(url, headers=headers).status_code == 405


def test_all_pages_only_where_that_is_said(chatty):
    with running(loaded(chatty), visitors=Visitors(origins=["*"])) as found:
        for origin in ("http://evil.example", "null"):
            answer = httpx.post(
                f"{found.url}/v1/completions", json=BODY, headers={"Origin": origin}
            )
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] == origin
        headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
        assert httpx.get(f"{found.url}/status", headers=headers).status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_a_foreign_page_causes_without_an_origin(web, site):
    image = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
    link = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    frame = {**link, "Sec-Fetch-Dest": "iframe"}
    for path in ("/status", "/", "/metrics"):
        assert web.get(path, headers=image).status_code == 403
        assert web.get(path, headers=frame).status_code == 403
    assert web.get("/status", headers=link).status_code == 403
    assert web.post("/v1/completions", json=BODY, headers=link).status_code == 403
    assert web.get("/", headers=link).status_code == 200  # a link in some documentation
    for own in ("same-origin", "none"):
        headers = {**image, "Sec-Fetch-Site": own}
        assert web.get("/status", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *(("hosts", value) for value in ("http://a.b", "a.b:80", "a b", "", "*.a.b", "a/b")),
        *(("origins", value) for value in ("null", "app.example.org", "http://", "http://a/b", "")),
        ("origins", "http://a:99999"),
    ],
)
def test_allowed_names_and_origins_that_are_none(setting, value):
    with pytest.raises(SettingsError, match=r"Found --allow-.* expected .*change it"):
        Visitors(**{setting: [value]})


@pytest.mark.parametrize(
    "kind",
    [
        *("text/plain", "text/plain;charset=UTF-8", "application/x-www-form-urlencoded"),
        *("multipart/form-data; boundary=a", "application/octet-stream", "application/jsonp"),
        *("text/plain; application/json", "application/json, text/plain", "text/json", "", None),
    ],
)
def test_a_body_that_does_not_say_that_it_is_json(plain, kind):
    headers = {} if kind is None else {"Content-Type": kind}
    for path in POSTS:
        refused = plain.post(path, content=json.dumps(BODY), headers=headers)
        assert (refused.status_code, code_of(refused)) == (415, "unsupported_media_type")
        assert "-H 'Content-Type: application/json'" in refused.json()["error"]["message"]
    in_pieces = plain.post("/v1/completions", content=iter([b"{", b"}"]), headers=headers)
    assert in_pieces.status_code == 415


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 200),
        ("Application/JSON; Charset=\"UTF-8\"", 200),
        ("application/json;charset=utf8", 200),
        ("application/vnd.api+json; profile=x", 200),
        ("application/json; charset=utf-16", 415),
        ("application/json; charset=latin-1", 415),
    ],
)  # fmt: skip
def test_json_in_utf_8(plain, kind, status):
    headers = {"Content-Type": kind}
    answer = plain.post("/v1/completions", content=json.dumps(BODY).encode(), headers=headers)
    assert answer.status_code == status
    assert status == 200 or "expected UTF-8" in answer.json()["error"]["message"]


def test_a_byte_order_mark(web):
    body = b"\xef\xbb\xbf" + json.dumps(BODY).encode()
    assert web.post("/v1/completions", content=body).status_code == 200
    packed = web.post(
        "/v1/completions", content=gzip.compress(body), headers={"Content-Encoding": "gzip"}
    )
    assert packed.status_code == 200


def raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


PACKERS = {
    "gzip": gzip.compress,
    "X-GZip": lambda body: gzip.compress(body[:9]) + gzip.compress(body[9:]),
    "deflate": zlib.compress,
    "Deflate": raw_deflate,
    "zstd": lambda body: zstandard.compress(body[:9]) + zstandard.compress(body[9:]),
    "identity": lambda body: body,
    "identity, gzip": gzip.compress,
}


@pytest.mark.parametrize("coding", PACKERS)
def test_packed_bodies_and_bombs(coding, small):
    pack, headers = PACKERS[coding], {"Content-Encoding": coding}
    headers["Content-Type"] = "application/json"

    def sent(body: bytes) -> httpx.Response:
        return small.post("/v1/completions", content=body, headers=headers)

    body = json.dumps(BODY).encode()
    assert sent(pack(body)).status_code == 200
    bomb = sent(pack(b" " * 3_000_000 + body))
    assert (bomb.status_code, code_of(bomb)) == (413, "body_too_large")
    if coding != "identity":
        for broken in (body, pack(body)[:-3], pack(body) + b"{}", b"\0"):
            refused = sent(broken)
            assert refused.status_code == 400
            assert code_of(refused) in ("invalid_encoding", "invalid_json")


@pytest.fixture(scope="module")
def small(chatty):
    limits = ServerLimits(max_body_bytes=10_000)
    with running(loaded(chatty), limits) as found, client_of(found) as web:
        yield web


@pytest.fixture(scope="module")
def plain(server):
    """A client that says nothing of itself."""
    with client_of(server) as web:
        yield web


def test_unknown_packings(web):
    for coding in ("br", "gzip, gzip", "gzip;q=1", "compress"):
        refused = web.post("/v1/completions", content=b"x", headers={"Content-Encoding": coding})
        assert (refused.status_code, code_of(refused)) == (415, "unsupported_encoding")
        assert "gzip" in refused.headers["accept-encoding"]


def test_a_key_as_anthropics_clients_send_it(open_one):
    url = "/v1/models"
    for headers in ({"x-api-key": "one"}, {"X-Api-Key": "one", "Authorization": "Bearer other"}):
        assert open_one.get(url, headers=headers).status_code == 200
    for headers in ({"x-api-key": "two"}, {"x-api-key": ""}, {"x-api-key": b"\xff"}):
        refused = open_one.get(url, headers=headers)
        assert (refused.status_code, code_of(refused)) == (401, "invalid_api_key")
        assert "x-api-key" in refused.json()["error"]["message"]
    assert open_one.get("/version").json()["version"]


def test_http_1_0_names_no_host(server):
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=120)
    connection._http_vsn, connection._http_vsn_str = 10, "HTTP/1.0"
    connection.putrequest("GET", "/health", skip_host=True)
    connection.endheaders()
    assert connection.getresponse().status == 200
    connection.close()
