"""Addresses of servers as people type them, and the key that goes there."""

import pytest

from treadle.core.errors import SettingsError
from treadle.runtime.address import ServerAddress, is_address, is_place, key_of_environment


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://localhost:8000/v1/", "http://localhost:8000"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("http://[::1]:8000/v1", "http://[::1]:8000"),
        ("http://[fe80::1%25eth0]:80/", "http://[fe80::1%25eth0]:80"),
        ("HTTPS://models.example.org/llm/v1", "https://models.example.org/llm"),
        (" http://a ", "http://a"),
    ],
)
def test_addresses(text, url):
    assert is_address(text)
    assert ServerAddress.parse(text) == (url, None)
    assert str(ServerAddress.parse(text)) == url


def test_unix_sockets():
    for text in ("unix:/run/s.sock", "unix:///run/s.sock"):
        assert ServerAddress.parse(text) == ("http://localhost", "/run/s.sock")
        assert str(ServerAddress.parse(text)) == "unix:/run/s.sock"


@pytest.mark.parametrize(
    ("text", "mend"),
    [
        ("localhost:8000", "start a server with 'treadle serve MODEL'"),
        ("http://::1:8000", r"in brackets, http://\[::1\]:8000"),
        ("http://2001:db8::1", r"in brackets, http://\[2001:db8::1\]"),
        ("http://a:99999", "mend it"),
        ("http://a:b", "mend it"),
        ("http://[::1", "mend it"),
        ("http://", "give the name of a machine"),
        ("http://a b:80", "leave out the blank"),
        ("http://a:0", "its port"),
        ("unix:", "the path of its socket"),
    ],
)
def test_what_is_no_address(text, mend):
    with pytest.raises(SettingsError, match=rf"^Found the address [^;]*; .*{mend}"):
        ServerAddress.parse(text)


def test_the_key_of_the_environment(monkeypatch):
    for name in ("TREADLE_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert key_of_environment() is None
    monkeypatch.setenv("OPENAI_API_KEY", " open ")
    assert key_of_environment() == "open"
    monkeypatch.setenv("TREADLE_API_KEY", "")
    assert key_of_environment() == "open"
    monkeypatch.setenv("TREADLE_API_KEY", "one, two")
    assert key_of_environment() == "one"


@pytest.mark.parametrize("text", ["localhost:8000", "127.0.0.1:80/v1", "[::1]:8000", "gpu-1.lan:1"])
def test_a_place_that_lacks_its_beginning(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_place(text)
    assert is_address(f"http://{text}")
    if "/" not in text:
        (tmp_path / text).mkdir()
        assert not is_place(text), "a model's folder may be called so"


@pytest.mark.parametrize("text", ["packaged:smollm2", "org/name", "C:/models", "http://a:80", "a"])
def test_models_are_no_places(text):
    assert not is_place(text)
