"""Adding a method is two files and one line: shown on a copy of the package."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
METRIC = '''"""A toy."""

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from treadle.core.method import Control
from treadle.core.shapes import Float, Tensor
from treadle.shrink.prune.base import Metric, Statistics

if TYPE_CHECKING:
    import torch


class Toy(Metric):
    """Score a weight by a power of its size."""

    name: ClassVar[str] = "toy"
    paper = Control("A toy for the tests.")

    power: Annotated[float, Field(gt=0.0)] = 2.0
    """Power of the size."""

    def score(
        self, weight: Float[Tensor, "out in"], statistics: Statistics, generator: "torch.Generator"
    ) -> Float[Tensor, "out in"]:
        """Return the power of the size."""
        return weight.abs() ** self.power
'''
TEST = '''"""The toy's own test."""

import torch

from treadle.shrink.prune.base import Statistics
from treadle.shrink.prune.methods.toy import Toy


def test_squares():
    assert Toy().score(torch.tensor([[-3.0]]), Statistics(), torch.Generator()).item() == 9.0
'''
RECIPE = """
out: runs
steps:
  - prune: {method: toy, power: 3, model: model, out: small}
"""


def run(root: Path, *words: str) -> str:
    environment = {
        "PYTHONPATH": f"{root}/src",
        "PATH": "/usr/bin:/bin",
        "HF_HUB_OFFLINE": "1",
        "HOME": str(root),
        "COLUMNS": "100",
    }
    command = [sys.executable, *words]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def add_the_toy(root: Path) -> None:
    family = root / "src/treadle/shrink/prune"
    (family / "methods/toy.py").write_text(METRIC)
    (root / "tests/shrink/prune/test_toy.py").write_text(TEST)
    table = family / "tables.py"
    line = '        "random": f"{_METHODS}.random:Random",\n'
    added = '        "toy": f"{_METHODS}.toy:Toy",\n'
    assert line in table.read_text()
    table.write_text(table.read_text().replace(line, line + added))


def test_two_files_and_one_line_reach_every_door(llama, tmp_path):
    for part in ("src", "tests", "docs", "recipes"):
        shutil.copytree(ROOT / part, tmp_path / part)  # with what is compiled, which stays valid
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "README.md").touch()
    add_the_toy(tmp_path)

    assert "--power" in run(tmp_path, "-m", "treadle", "prune", "toy", "--help")
    run(
        tmp_path,
        "-c",
        "import sys; sys.path.insert(0, 'docs'); import generate as g; "
        "from pathlib import Path; Path('docs/methods.md').write_text(g.methods_page())",
    )
    row = "| `toy` | Score a weight by a power of its size. | `power` = 2.0 |"
    assert row in (tmp_path / "docs/methods.md").read_text()

    shutil.copytree(llama, tmp_path / "model")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    plan = run(tmp_path, "-m", "treadle", "run", "recipe.yaml", "--dry-run")
    assert "prune toy model -> small" in plan
    run(tmp_path, "-m", "treadle", "prune", "toy", "model", "small", "--power", "3")

    prune = "tests/shrink/prune"
    suite = (f"{prune}/test_toy.py", f"{prune}/test_conformance.py", "tests/test_architecture.py")
    chosen = ("-k", "toy or test_architecture")
    said = run(tmp_path, "-m", "pytest", "-p", "no:cacheprovider", "-rA", *chosen, *suite)
    assert "toy]" in said or "[toy" in said, "the conformance suite does not know the toy"
