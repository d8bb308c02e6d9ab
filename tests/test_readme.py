"""The README's treadle commands and every example run, on a tiny model."""

import re
import runpy
import shlex
from pathlib import Path

import pytest

from treadle.cli import main
from treadle.model import tiny

ROOT = Path(__file__).parent.parent
COMMANDS = [
    line.partition("#")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    for line in block.splitlines()
    if line.startswith("treadle ")
]


def test_readme_commands_run_in_order(tmp_path, monkeypatch):
    model = tiny.build("llama", tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    assert len(COMMANDS) >= 5
    for command in COMMANDS:
        words = [
            str(model) if word == "packaged:smollm2" else word for word in shlex.split(command)
        ]
        if words[1] == "prune":
            words += ["--num-windows", "4", "--window-tokens", "64"]
        if words[1] == "evaluate":
            words += ["--num-windows", "4", "--window-tokens", "64"]
        if words[1] == "bench":
            words += ["--prompt-tokens", "8", "--new-tokens", "4"]
        assert main(words[1:]) == 0, command
    assert (tmp_path / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_example_runs(example, tmp_path, monkeypatch, capsys):
    model = tiny.build("llama", tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [str(example), str(model), "--quick"])
    runpy.run_path(str(example), run_name="__main__")
    assert capsys.readouterr().out
