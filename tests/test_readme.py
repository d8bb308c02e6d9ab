"""The README's treadle commands and every example run, on a tiny model."""

import json
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from treadle.cli import main
from treadle.model import tiny

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
_BLOCKS = re.compile(r"```(sh|console)\n(.*?)```", re.DOTALL)
_NUMBER = re.compile(r"-?\d[\d,]*\.?\d*(?:e[+-]\d+)?")
_OF_THE_MACHINE = ("per second", " cost ", " written ")
"""What a line says whose numbers are this machine's."""
REAL = "packaged:smollm2"


class Shown(NamedTuple):
    """A command of the README, and what it says there, if that is shown."""

    command: str
    lines: list[str]


def commands() -> list[Shown]:
    """Return the commands of the README in their order; of a console, those whose outcome is shown.

    A console without an outcome starts what does not end by itself.
    """
    found: list[Shown] = []
    for kind, block in _BLOCKS.findall(README):
        for line in block.splitlines():
            if kind == "sh" and line.startswith("treadle "):
                found.append(Shown(line.partition("#")[0].strip(), []))
            elif kind == "console" and line.startswith("$ treadle "):
                found.append(Shown(line[2:].partition("  #")[0].strip(), []))
            elif kind == "console" and not line.startswith("$"):
                found[-1].lines.append(line)
    return [one for one in found if one.lines or f"\n{one.command}" in README]


def small(words: list[str]) -> list[str]:
    """Return a command as a tiny model's tests can afford it."""
    if words[1] in ("prune", "evaluate"):
        words = [*words, "--num-windows", "4", "--window-tokens", "64"]
        return [word for n, word in enumerate(words) if not _is_before(words, n)]
    if words[1:3] == ["bench", "questions"]:
        return [*words, "--new-tokens", "4"]
    return [*words, "--prompt-tokens", "8", "--new-tokens", "4"] if words[1] == "bench" else words


def _is_before(words: list[str], place: int) -> bool:
    """Whether a word belongs to the first of two --num-windows, which the README's command has."""
    first = words.index("--num-windows")
    return words.count("--num-windows") > 1 and place in (first, first + 1)


@pytest.fixture
def talking(tmp_path: Path) -> Path:
    """A tiny model with a chat template."""
    folder = tiny.build("llama", tmp_path / "model")
    file = folder / "tokenizer_config.json"
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
    file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": template}))
    return folder


def test_readme_commands_run_in_order(talking, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert len(commands()) >= 12
    for shown in commands():
        words = [str(talking) if w == REAL else w for w in shlex.split(shown.command)]
        assert main(small(words)[1:]) == 0, shown.command
        said = iter(capsys.readouterr().out.splitlines())
        for line in shown.lines:  # they come in this order, with other numbers
            assert any(_label(one) == _label(line) for one in said), (shown.command, line)
    assert (tmp_path / "report.html").stat().st_size > 10_000


def _label(line: str) -> str:
    """Return what stands before a line's first number, or before two spaces."""
    return re.split(r"  +", line.strip())[0]


def test_the_first_commands_show_what_they_say():
    _, begun, use = README.partition("## Use it")
    assert begun
    first, second = [one for one in commands() if one.command in use][:2]
    assert first.lines
    assert second.lines


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="counts Python 3.11's own files")
def test_shown_outcomes_are_those_of_the_real_model(tmp_path, monkeypatch, capsys):
    """Numbers within half a percent, words as they are; how fast it is depends on the machine."""
    monkeypatch.chdir(tmp_path)
    for shown in commands():
        if not shown.lines:
            continue
        assert main(shlex.split(shown.command)[1:]) == 0
        said = {_label(line): line for line in capsys.readouterr().out.splitlines()}
        for line in shown.lines:
            found = said[_label(line)].rstrip()
            if any(word in line for word in _OF_THE_MACHINE):
                line, found = (re.sub(_NUMBER, "N", one, count=1) for one in (line, found))
            assert re.sub(_NUMBER, "N", found) == re.sub(_NUMBER, "N", line)
            pairs = zip(_NUMBER.findall(line), _NUMBER.findall(found), strict=True)
            for expected, value in pairs:
                numbers = [float(one.replace(",", "")) for one in (expected, value)]
                assert numbers[1] == pytest.approx(numbers[0], rel=0.005), line


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_example_runs(example, tmp_path, monkeypatch, capsys):
    model = tiny.build("llama", tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [str(example), str(model), "--quick"])
    runpy.run_path(str(example), run_name="__main__")
    assert capsys.readouterr().out
