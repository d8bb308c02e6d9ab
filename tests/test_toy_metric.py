"""Adding a method is two files and one line: a metric and a merge method, in a copy of all."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

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
MERGE = '''"""A toy of two models."""

from typing import Any, ClassVar

from pydantic import Field

from treadle.combine.merge.base import Chunk, Floats, MergeMethod, Site
from treadle.core.method import Control

__all__ = ["ToyStep"]


class ToyStep(MergeMethod):
    """Go a part of the way from the first model to the second."""

    name: ClassVar[str] = "toy_step"
    base = "first"
    num_models = (1, 1)
    paper = Control("A toy for the tests.")

    part: float = Field(ge=0.0, le=1.0)
    """How far."""

    def merge(self, chunk: Chunk, site: Site, known: Any) -> Floats:
        """Return a point between both."""
        assert chunk.base is not None
        return chunk.base + (chunk.models[0] - chunk.base) * chunk.base.dtype.type(self.part)
'''
MERGE_TEST = '''"""The toy's own test."""

import numpy as np

from combine.merge.sites import MemorySite, merged, normal
from treadle.combine.merge.methods.toy_step import ToyStep


def test_the_end_is_the_model():
    base, model = normal(3, 4, seed=0), normal(3, 4, seed=1)
    found = merged(ToyStep(part=1.0), MemorySite([model], base=base))
    assert np.allclose(found, model)
'''
RECIPE = """
out: runs
steps:
  - prune: {method: toy, power: 3, model: model, out: small}
  - merge: {method: toy_step, part: 0.5, models: [model, small], out: between}
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


def add_method(root: Path, family: str, name: str, method: str, test: str, neighbour: str) -> None:
    """Write two files, and one line behind that of a neighbour in the family's table."""
    folder = root / "src/treadle" / family
    (folder / f"methods/{name}.py").write_text(method)
    (root / f"tests/{family}/test_{name}.py").write_text(test)
    table, target = folder / "tables.py", re.search(r"class (\w+)\(", method)[1]
    lines = table.read_text().splitlines(keepends=True)
    place = next(n for n, line in enumerate(lines) if line.strip().startswith(f'"{neighbour}":'))
    lines.insert(place + 1, f'        "{name}": f"{{_METHODS}}.{name}:{target}",\n')
    table.write_text("".join(lines))


def test_two_files_and_one_line_reach_every_door(llama, tmp_path):
    for part in ("src", "tests", "docs", "recipes", "benchmarks"):
        shutil.copytree(ROOT / part, tmp_path / part)  # with what is compiled, which stays valid
    for file in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / file, tmp_path)
    add_method(tmp_path, "shrink/prune", "toy", METRIC, TEST, "random")
    add_method(tmp_path, "combine/merge", "toy_step", MERGE, MERGE_TEST, "slerp")

    assert "--power" in run(tmp_path, "-m", "treadle", "prune", "toy", "--help")
    # What `make docs` runs; nothing is left to write by hand.
    run(tmp_path, "docs/generate.py")
    row = "| `toy` | Score a weight by a power of its size. | `power` = 2.0 |"
    assert row in (tmp_path / "docs/methods.md").read_text()
    assert "treadle merge toy_step" in (tmp_path / "docs/cli.md").read_text()
    readme = (tmp_path / "README.md").read_text()
    assert ", toy," in readme or ": random, toy" in readme
    assert "slerp, toy_step" in readme
    sweep = yaml.safe_load((tmp_path / "benchmarks/sweeps/prune_quality.yaml").read_text())
    assert {"method": "toy"} in sweep["over"]["prune"]

    shutil.copytree(llama, tmp_path / "model")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    plan = run(tmp_path, "-m", "treadle", "run", "recipe.yaml", "--dry-run")
    assert "prune toy model -> small" in plan
    assert "merge toy_step model small -> between" in plan

    suites = [
        f"tests/{family}/{file}"
        for family, name in (("shrink/prune", "toy"), ("combine/merge", "toy_step"))
        for file in (f"test_{name}.py", "test_conformance.py")
    ]
    rules = "every_family or every_method or every_field or their_size"
    own = f"toy or test_architecture and ({rules})"
    chosen = ("-k", own, "tests/test_architecture.py")
    said = run(tmp_path, "-m", "pytest", "-p", "no:cacheprovider", "-rA", *chosen, *suites)
    for name in ("toy", "toy_step"):
        assert re.search(rf"\[{name}\b|\b{name}\]", said), f"no conformance test knows {name}"
    only = {path for path in tracked(tmp_path) if path.read_bytes() != original(path, tmp_path)}
    assert {str(path.relative_to(tmp_path)) for path in only} == TOUCHED


TOUCHED = {
    "src/treadle/shrink/prune/tables.py",
    "src/treadle/combine/merge/tables.py",
    # Written by `make docs`.
    "docs/methods.md",
    "docs/cli.md",
    "README.md",
    "benchmarks/sweeps/prune_quality.yaml",
}


def tracked(root: Path) -> list[Path]:
    """Return the files of the copy that are in the repository, too."""
    return [
        root / file.relative_to(ROOT)
        for part in ("src", "tests", "docs", "benchmarks", "README.md")
        for file in ([ROOT / part] if (ROOT / part).is_file() else (ROOT / part).rglob("*"))
        if file.suffix in (".py", ".md", ".yaml") and (root / file.relative_to(ROOT)).is_file()
    ]


def original(path: Path, root: Path) -> bytes:
    return (ROOT / path.relative_to(root)).read_bytes()
