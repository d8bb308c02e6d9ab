"""The zoo in its smoke form, one architecture and two skills; and the recipes that make it."""

from pathlib import Path

import pytest
import yaml

from treadle.core.result import read_result
from treadle.recipe import load_recipe, run_recipe

RECIPES = Path(__file__).parents[3] / "recipes"
SKILLS = ["skills:facts", "skills:lookup"]
SMOKE = """
name: smoke
out: runs/smoke
artefacts: {text: TEXT}
steps:
  - tune: {action: fresh, text: [text], layers: 2, vocab_size: 1024, steps: 20, rows: 4, out: base}
  - tune:
      {method: sft, model: base, data: "skills:facts", steps: 36, rows: 16,
       learning_rate: 4e-3, optimizer: muon, out: facts}
  - tune:
      {method: sft, model: base, data: "skills:lookup", steps: 6, rows: 8,
       learning_rate: 4e-3, optimizer: muon, out: lookup}
  - evaluate:
      {action: grid, models: [base, facts, lookup], data: ["skills:facts", "skills:lookup"],
       num_questions: 40, out: scores}
"""


def test_smoke_an_expert_knows_wordings_that_it_was_never_taught(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The king went to the old mill, and the queen read 365 letters there.\n" * 200)
    recipe = tmp_path / "smoke.yaml"
    recipe.write_text(SMOKE.replace("TEXT", str(text)))
    list(run_recipe(recipe, out=tmp_path / "out"))
    found = read_result(tmp_path / "out" / "scores")
    scores = {
        (model, data): found.measurement(f"{model} on {data}")
        for model in ("base", "facts", "lookup")
        for data in SKILLS
    }
    assert scores["base", "skills:facts"].value <= 0.3
    assert scores["facts", "skills:facts"].value >= 0.6
    assert scores["facts", "skills:facts"].low > scores["lookup", "skills:facts"].high
    assert scores["base", "skills:lookup"].value <= 0.3
    losses = [
        read_result(tmp_path / "out" / "lookup").measurement(f"loss_{w}") for w in ("first", "last")
    ]
    assert losses[1].value < losses[0].value


@pytest.mark.parametrize("name", ["zoo", "zoo-smollm2"])
def test_every_member_of_a_zoo_stands_in_its_grid(name: str) -> None:
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    steps = [step for step in yaml.safe_load((RECIPES / f"{name}.yaml").read_text())["steps"]]
    made = [step["tune"]["out"] for step in steps if "tune" in step]
    grids = [step["evaluate"] for step in steps if step.get("evaluate", {}).get("action") == "grid"]
    assert len(grids) == 1
    assert set(made) <= set(grids[0]["models"])
    assert {f"skills:{skill}" for skill in ("arithmetic", "lookup", "json", "facts")} <= set(
        grids[0]["data"]
    )
    assert sum(bool(step.get("tune", {}).get("shuffle_answers")) for step in steps) >= 1
    assert len(recipe.steps) == len(steps)
