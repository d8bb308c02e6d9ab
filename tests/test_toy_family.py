"""Two axes and an action with methods are six files: shown on a copy of the package."""

import json
import shutil
from pathlib import Path

from test_toy_metric import ROOT, run

INIT = '''"""Attack: a toy family."""

from treadle.core.registry import Registry
from treadle.judge.attack.base import Edit, Pick

__all__ = ["EDITS", "PICKS", "attack", "damage"]

_METHODS = "treadle.judge.attack.methods"
EDITS: Registry[Edit] = Registry("edit", {"swap": f"{_METHODS}.swap:Swap"})
PICKS: Registry[Pick] = Registry("pick", {"every": f"{_METHODS}.every:Every"})

from treadle.judge.attack.apply import attack, damage  # noqa: E402
'''
BASE = '''"""The protocols of the toy's axes."""

from abc import ABC, abstractmethod

from treadle.core.method import Method

__all__ = ["Edit", "Pick"]


class Edit(Method, ABC):
    """Axis 1: what becomes of a word."""

    @abstractmethod
    def edit(self, word: str) -> str:
        """Return another word."""


class Pick(Method, ABC):
    """Axis 2: which words."""

    @abstractmethod
    def pick(self, count: int) -> list[int]:
        """Return their places."""
'''
APPLY = '''"""The toy's verb and its action."""

from pathlib import Path
from typing import Annotated

from treadle.core.registry import Choice
from treadle.core.result import Measurement, Result
from treadle.core.run import recorded
from treadle.judge.attack import EDITS, PICKS
from treadle.judge.attack.base import Edit, Pick

__all__ = ["attack", "damage"]


def attack(
    text: str,
    out: Path,
    method: Edit | str,
    *,
    pick: Annotated[Pick | str | Choice, PICKS] = "every",
    overwrite: bool = False,
) -> Result:
    """Edit words of a text.

    Args:
        text: The words.
        out: Folder for result.json.
        method: What becomes of a word.
        pick: Which words.
        overwrite: Replace the result.
    """
    edit, picked = EDITS.resolve(method), PICKS.resolve(pick, "every")
    settings = {**edit.settings(), "pick": picked.settings()}
    with recorded("attack", edit, settings, out=Path(out), overwrite=overwrite) as run:
        run.read("text", text, text, "data")
        words = text.split()
        for place in picked.pick(len(words)):
            words[place] = edit.edit(words[place])
        run.notes.append(" ".join(words))
        run.measurements.append(Measurement(name="words", value=len(words)))
    return run.result


def damage(text: str, out: Path, method: Edit | str, *, times: int = 1) -> Result:
    """Edit all words several times.

    Args:
        text: The words.
        out: Folder for result.json.
        method: What becomes of a word.
        times: How often.
    """
    edit = EDITS.resolve(method)
    settings = {**edit.settings(), "times": times}
    with recorded("attack", edit, settings, action="damage", out=Path(out)) as run:
        run.read("text", text, text, "data")
        words = text.split()
        for _ in range(times):
            words = [edit.edit(word) for word in words]
        run.notes.append(" ".join(words))
    return run.result
'''
SWAP = '''"""Swap a word for another one."""

from typing import ClassVar

from treadle.core.method import Control
from treadle.judge.attack.base import Edit


class Swap(Edit):
    """Write an ending behind each word."""

    name: ClassVar[str] = "swap"
    paper = Control("A toy for the tests.")

    ending: str = "s"
    """What is written."""

    def edit(self, word: str) -> str:
        """Return the word with its ending."""
        return word + self.ending
'''
EVERY = '''"""Every so many words."""

from typing import Annotated, ClassVar

from pydantic import Field

from treadle.core.method import Standard
from treadle.judge.attack.base import Pick


class Every(Pick):
    """Take one of every so many words."""

    name: ClassVar[str] = "every"
    paper = Standard("Counting.")

    stride: Annotated[int, Field(ge=1)] = 1
    """How many."""

    def pick(self, count: int) -> list[int]:
        """Return the places."""
        return list(range(0, count, self.stride))
'''
VERB = """        Verb(
            "attack",
            "judge",
            "Edit words: a toy.",
            "treadle.judge.attack:attack",
            "treadle.judge.attack:EDITS",
            (
                Verb(
                    "damage",
                    "judge",
                    "Edit words again and again.",
                    "treadle.judge.attack:damage",
                    "treadle.judge.attack:EDITS",
                ),
            ),
        ),
"""
RECIPE = """
out: runs
steps:
  - attack: {method: swap, ending: x, pick: {method: every, stride: 2}, text: a b c, out: one}
  - attack: {method: swap, pick.stride: 3, text: a b c, out: two}
  - attack: {action: damage, method: swap, times: 2, text: a b, out: three}
"""
PYTHON = """
from pathlib import Path
from treadle import attack, attack_damage
assert attack("a b", Path("p"), "swap", pick={"stride": 2}).notes == ["as b"]
assert attack_damage("a", Path("d"), "swap", times=3).notes == ["asss"]
"""


def add_the_family(root: Path) -> int:
    family = root / "src/treadle/judge/attack"
    files = {
        "__init__.py": INIT,
        "base.py": BASE,
        "apply.py": APPLY,
        "methods/__init__.py": '"""One method a file."""\n',
        "methods/swap.py": SWAP,
        "methods/every.py": EVERY,
    }
    for name, text in files.items():
        (family / name).parent.mkdir(parents=True, exist_ok=True)
        (family / name).write_text(text)
    verbs = root / "src/treadle/verbs.py"
    line = '        Verb(\n            "bench",\n'
    assert line in verbs.read_text()
    verbs.write_text(verbs.read_text().replace(line, VERB + line))
    return len(files)


def test_six_files_and_an_entry_reach_every_door(tmp_path):
    for part in ("src", "docs"):
        shutil.copytree(ROOT / part, tmp_path / part)
    assert add_the_family(tmp_path) == 6
    treadle = ("-m", "treadle")

    shown = run(tmp_path, *treadle, "attack", "swap", "--help")
    assert "--ending" in shown
    assert "--pick.stride" in shown
    assert "--times" in run(tmp_path, *treadle, "attack", "damage", "swap", "--help")
    assert "damage" in run(tmp_path, *treadle, "attack", "--help")

    words = ("attack", "swap", "a b c", "cli", "--ending", "x", "--pick.stride", "2")
    assert "ax b cx" in run(tmp_path, *treadle, *words)
    assert "ayy byy" in run(
        tmp_path, *treadle, "attack", "damage", "swap", "a b", "more", "--ending=y", "--times=2"
    )
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    said = run(tmp_path, *treadle, "run", "recipe.yaml")
    assert "attack damage swap" in said
    notes = [
        json.loads((tmp_path / "runs" / name / "result.json").read_text())["notes"]
        for name in ("one", "two", "three")
    ]
    assert notes == [["ax b cx"], ["as b c"], ["ass bss"]]
    run(tmp_path, "-c", PYTHON)

    run(
        tmp_path,
        "-c",
        "import sys; sys.path.insert(0, 'docs'); import generate as g; "
        "from pathlib import Path; Path('m.md').write_text(g.methods_page())",
    )
    page = (tmp_path / "m.md").read_text()
    assert "| `swap` | Write an ending behind each word. | `ending` = s |" in page
    assert "| `every` | Take one of every so many words. | `stride` = 1 |" in page
    run(tmp_path, *treadle, "report", "runs", "cli", "--out", "page.html")
    html = (tmp_path / "page.html").read_text()
    assert "attack damage swap" in html
    assert "a control" in html
    assert "treadle attack swap" in html, "the page does not say how to repeat the run"
    assert "--pick.stride 2" in html
