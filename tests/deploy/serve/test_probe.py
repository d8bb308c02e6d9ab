"""The probe: a real server process, asked by the official client, and stopped."""

import base64
import contextlib
import signal
import stat
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest

from treadle.cli import main
from treadle.core.errors import CapacityError, SettingsError
from treadle.core.result import read_result
from treadle.deploy.serve import probe
from treadle.model import tiny
from treadle.page.figures import draw
from treadle.recipe import load_recipe


def a_png() -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        code = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + code

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def browser(folder: Path, words: str) -> str:
    """Return a program that takes the place of a browser where none is installed."""
    program = folder / "browser"
    program.write_text(f'#!/bin/sh\nfor word in "$@"; do case $word in {words} esac; done\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return str(program)


def test_a_chat_is_answered_and_a_picture_kept(chatty, tmp_path):
    (tmp_path / "shot.png").write_bytes(a_png())
    copies = f'--screenshot=*) cp {tmp_path}/shot.png "${{word#--screenshot=}}";;'
    program = browser(tmp_path, copies)
    out = tmp_path / "out"
    result = probe(chatty, out, question="Hello?", new_tokens=6, browser=program)
    assert read_result(out) == result
    assert result.measurement("start").value > 0
    assert result.measurement("first_piece").value > 0
    (picture,) = result.figures
    assert base64.b64decode(picture.png_base64) == a_png()
    assert f'src="data:image/png;base64,{picture.png_base64}"' in draw(picture, "k")
    with pytest.raises(SettingsError, match="holds a result already"):
        probe(chatty, out)


@pytest.mark.slow
def test_a_model_without_a_template_goes_on_with_the_text(tmp_path):
    folder = tiny.build("llama", tmp_path / "plain")
    words = ["serve", "probe", str(folder), str(tmp_path / "out"), "--browser", "none"]
    assert main([*words, "--question", "One,", "--new-tokens", "4"]) == 0
    result = read_result(tmp_path / "out")
    assert (result.verb, result.action) == ("serve", "probe")
    assert result.notes[0].startswith("One, - ")
    assert "No picture" in result.notes[1]


def test_mistakes_are_named(chatty, tmp_path):
    with pytest.raises(SettingsError, match="no program 'netscape'"):
        probe(chatty, tmp_path / "a", browser="netscape")
    with pytest.raises(CapacityError, match=r"did not start; it said: .*No weight form 'q9'"):
        probe(chatty, tmp_path / "b", weights="q9", browser="none")
    with pytest.raises(CapacityError, match="took no picture"):
        probe(chatty, tmp_path / "c", browser=browser(tmp_path, "--nothing) true;;"))
    assert not any((tmp_path / name).exists() for name in "abc")


@pytest.mark.slow
def test_a_recipe_may_end_with_it(chatty, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"name: serve\nout: {tmp_path / 'runs'}\nsteps:\n"
        f"  - serve: {{action: probe, model: {chatty}, browser: none, out: served}}\n"
    )
    (step,) = load_recipe(recipe).steps
    assert step.command == "serve probe"
    assert main(["run", str(recipe)]) == 0
    assert read_result(tmp_path / "runs" / "served").measurement("stop").value > 0


def test_sigterm_takes_the_server_along(chatty, tmp_path):
    command = [sys.executable, "-m", "treadle", "serve", "probe", str(chatty), str(tmp_path / "o")]
    with subprocess.Popen([*command, "--browser", "none"], start_new_session=True) as process:
        while not (children := children_of(process.pid)):
            time.sleep(0.05)
            assert process.poll() is None
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM
    assert not [child for child in children if Path(f"/proc/{child}").exists()]


def children_of(parent: int) -> list[int]:
    """Return the processes that `parent` started and that are its server."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state = (folder / "stat").read_text().rpartition(")")[2].split()
            words = (folder / "cmdline").read_bytes()
            if int(state[1]) == parent and b"serve" in words:
                found.append(int(folder.name))
    return found
