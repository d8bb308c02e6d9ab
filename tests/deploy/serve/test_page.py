"""The status page in a real browser."""

import os
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import httpx
import pytest

from treadle.deploy.serve import plain_endpoints

from .servers import loaded, running

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="needs chromium: apt-get install chromium"),
]


def seen(url: str, folder: Path) -> str:
    """Return the page as the browser has it after some seconds, and keep a picture."""
    command = [
        BROWSER,
        *("--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=4000"),
        *(f"--user-data-dir={folder / 'profile'}", f"--screenshot={folder / 'page.png'}"),
        *("--dump-dom", url),
    ]
    environment = {**os.environ, "HOME": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    return done.stdout


def text_of(page: str, name: str) -> str:
    (found,) = re.findall(rf'id="{name}"[^>]*>(.*?)</(?:pre|dd|p|span|tbody)>', page, re.S)
    return unescape(found)


def as_printed(page: str) -> str:
    """Run the command that the page says to copy, and return what it writes."""
    command = text_of(page, "curl")
    assert "-H 'Content-Type: application/json'" in command
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=120)
    return done.stdout


PLAIN = plain_endpoints.page_text()


def with_script(monkeypatch, script: str) -> None:
    """Let a script run before the page's own."""
    text = PLAIN.replace("<script>", f"<script>{script}</script><script>", 1)
    monkeypatch.setattr(plain_endpoints, "page_text", lambda: text)


def test_the_page_shows_what_runs(server, tmp_path):
    body = {"prompt": "def", "max_tokens": 30, "ignore_eos": True}
    assert httpx.post(f"{server.url}/v1/completions", json=body).status_code == 200
    page = seen(server.url + "/?prompt=weave", tmp_path)
    assert text_of(page, "state") == "serving"
    assert '<option value="tiny">tiny</option>' in page
    assert ">token limit</td>" in page
    assert "1,024 tokens" in text_of(page, "models")
    assert text_of(page, "base") == f"{server.url}/v1"
    assert '"role":"assistant"' in as_printed(page)
    assert (tmp_path / "page.png").stat().st_size > 20_000


def test_a_key_and_a_wrong_one(chatty, tmp_path, monkeypatch):
    with running(loaded(chatty, "it's"), keys=["one"]) as found:
        page = seen(found.url, tmp_path)
        assert text_of(page, "state") == "locked"
        assert text_of(page, "locked") == ""
        with_script(monkeypatch, "sessionStorage.setItem('treadle key', 'one')")
        page = seen(found.url, tmp_path)
        assert text_of(page, "state") == "serving"
        assert '"role":"assistant"' in as_printed(page)
        with_script(monkeypatch, "sessionStorage.setItem('treadle key', 'two')")
        page = seen(found.url, tmp_path)
        assert text_of(page, "state") == "wrong key"
        assert text_of(page, "locked") == "That key is none of this server's."


def test_a_server_that_is_gone(server, tmp_path, monkeypatch):
    gone = (
        "let n = 0; const real = fetch; fetch = (...all) => n++ ? Promise.reject(1) : real(...all)"
    )
    with_script(monkeypatch, gone)
    page = seen(server.url, tmp_path)
    assert re.fullmatch(r"not reachable since \d+:\d\d:\d\d.*", text_of(page, "state"))
    assert '<body class="away">' in page


def test_no_more_is_asked_of_a_model_than_it_has_room_for(llama, chatty, tmp_path, monkeypatch):
    """Half of a small context, 256 of a large one, and what somebody wrote stays."""
    tell = "document.body.dataset.most = ['tiny', 'large'].map(name => { $('model').value = name; "
    tell += "$('model').onchange(); return $('length').value; }).join(' ')"
    write = "$('length').value = 7; $('length').oninput();"
    for script, most in ((tell, "64 256"), (f"{write} {tell}", "7 7")):
        later = f"setTimeout(() => {{ {script} }}, 2500)"
        with_script(monkeypatch, later)
        with running([*loaded(llama, "tiny"), *loaded(chatty, "large")]) as found:
            assert f'data-most="{most}"' in seen(found.url, tmp_path)
