"""A recipe that makes and judges a router, run twice."""

import pytest

from combine.route.made import records, written
from treadle.recipe import run_recipe

RECIPE = """
name: routes
out: {out}
artefacts: {{train: {train}, test: {test}}}
steps:
  - route: {{method: best_single, data: train, out: single}}
  - route: {{method: knn, k: {k}, directions: 8, data: train, out: knn}}
  - route: {{action: evaluate, router: single, test: test, out: single.score}}
  - route: {{action: evaluate, router: knn, test: test, baseline: single.score, out: knn.score}}
"""


def states(recipe) -> list[str]:
    return [line.rpartition(": ")[2] for line in run_recipe(recipe)]


@pytest.fixture
def recipe(tmp_path):
    places = {name: tmp_path / f"{name}.jsonl" for name in ("train", "test")}
    written(places["train"], records(40))
    written(places["test"], records(20, seed=1))
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(out=tmp_path / "out", k=5, **places))
    return path


def test_what_is_there_is_not_made_again(recipe):
    first = states(recipe)
    assert "there already" not in first
    assert states(recipe) == ["there already"] * 4
    recipe.write_text(recipe.read_text().replace("k: 5", "k: 6"))
    again = states(recipe)
    assert [one == "there already" for one in again] == [True, False, True, False]
