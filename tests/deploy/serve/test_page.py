"""The status page in a real browser."""

import os
import shutil
import subprocess

import httpx
import pytest

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs chromium: apt-get install chromium")
def test_the_page_shows_what_runs(server, tmp_path):
    body = {"prompt": "def", "max_tokens": 30, "ignore_eos": True}
    assert httpx.post(f"{server.url}/v1/completions", json=body).status_code == 200
    shot = tmp_path / "page.png"
    command = [
        BROWSER,
        *("--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000"),
        *(f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={shot}", "--dump-dom"),
        server.url + "/?prompt=weave",
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert ">serving</span>" in done.stdout
    assert '<option value="tiny">tiny</option>' in done.stdout
    assert "<td>length</td>" in done.stdout
    assert shot.stat().st_size > 20_000
