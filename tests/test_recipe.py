"""Recipes: checked before they run, resumed where they stopped."""

import re
import shutil
from pathlib import Path

import pytest

from treadle.core.errors import DataError, SettingsError, TreadleError
from treadle.core.result import read_result
from treadle.model import tiny
from treadle.recipe import load_recipe, run_recipe

RECIPE = """
out: {out}
artefacts: {{base: {model}, calibration: "stdlib:calibration", heldout: "stdlib:heldout"}}
temporary: [small]
steps:
  - prune:
      {{method: wanda, model: base, text: calibration, num_windows: 4, window_tokens: 32,
        out: small}}
  - evaluate:
      {{method: perplexity, model: small, data: heldout, num_windows: 2, window_tokens: 32,
        out: small.ppl}}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny.build("llama", tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture
def recipe(tmp_path, model) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(out=tmp_path / "runs", model=model))
    return path


def states(recipe: Path, **options) -> list[str]:
    return [line.rpartition(": ")[2] for line in run_recipe(recipe, **options)]


def test_dry_run_writes_nothing(recipe, tmp_path):
    assert states(recipe, dry_run=True) == ["would run", "would run"]
    assert not (tmp_path / "runs").exists()


def test_runs_once_and_removes_temporary_weights(recipe, tmp_path):
    list(run_recipe(recipe))
    small = tmp_path / "runs" / "small"
    left = {path.name for path in small.iterdir()}
    assert left == {"result.json", "treadle.json"}, "nothing that looks like a model"
    assert states(recipe) == ["there already"] * 2


def test_a_lost_result_reruns_its_step_and_the_producer_of_its_input(recipe, tmp_path):
    list(run_recipe(recipe))
    before = (tmp_path / "runs" / "small.ppl" / "result.json").read_text()
    shutil.rmtree(tmp_path / "runs" / "small.ppl")
    assert "there already" not in states(recipe)
    after = (tmp_path / "runs" / "small.ppl" / "result.json").read_text()
    assert before.split('"samples"')[1].split("]")[0] == after.split('"samples"')[1].split("]")[0]


def test_a_changed_setting_reruns_what_depends_on_it(recipe):
    list(run_recipe(recipe))
    recipe.write_text(recipe.read_text().replace("num_windows: 4", "num_windows: 3"))
    assert "there already" not in states(recipe)


def test_an_interrupted_recipe_goes_on(recipe, monkeypatch, tmp_path):
    lines = run_recipe(recipe)
    next(lines)
    lines.close()
    assert states(recipe)[0] == "there already"


def test_settings_of_an_object_are_settings_of_the_step(recipe, tmp_path):
    through = "method: perplexity, through: runtime, kv_dtype: int8,"
    recipe.write_text(recipe.read_text().replace("method: perplexity,", through))
    list(run_recipe(recipe))
    result = (tmp_path / "runs" / "small.ppl" / "result.json").read_text()
    assert '"kv_dtype": "int8"' in result
    assert states(recipe) == ["there already", "there already"]


def test_nested_settings_reach_the_axis(recipe, tmp_path):
    nested = "method: wanda, update: {method: obs, damp_fraction: 0.02},"
    recipe.write_text(recipe.read_text().replace("method: wanda,", nested))
    list(run_recipe(recipe))
    result = (tmp_path / "runs" / "small" / "result.json").read_text()
    assert '"damp_fraction": 0.02' in result


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("prune:", "prun:", "Did you mean 'prune'?"),
        ("method: wanda", "method: wand", "Did you mean 'wanda'?"),
        ("text: calibration", "txt: calibration", "Did you mean 'text'?"),
        ("num_windows: 2", "num_windows: 0", "num_windows = 0 is refused"),
        ("temporary: [small]", "temporary: [smal]", "Did you mean 'small'?"),
        ("temporary:", "temprary:", "unknown key 'temprary'"),
        ("model: base,", "model: small.ppl,", "before a later step makes it"),
        ("out: small.ppl", "out: small", "Two artefacts are called 'small'"),
        ("data: heldout, ", "", "the setting 'data' is missing"),
        ("steps:", "stops:", "no list 'steps'"),
        ("text: calibration,", "text: calibration, text: heldout,", "'text' stands twice"),
        ("text: calibration,", "text: calibration, 7: x,", "the key 7 is no name of a setting"),
        ("temporary: [small]", "temporary: 3", "temporary: '3'; give a list of names"),
        ("temporary: [small]", "temporary: [3]", "give a list of names"),
        ("artefacts: {", "artefacts: x #", "artefacts: 'x'; give names"),
        ("artefacts: {", "artefacts: {a: 3, ", "give names, each with a path"),
        ("\nout: ", "\nout: 3 #", "out: '3'; give the path"),
        ("\nout: ", "\nout: '' #", "give the path of a folder"),
        ("\nout: ", '\nout: "a\\0b" #', "give the path of a folder"),
        ("\nout: ", f"\nout: {'é' * 150} #", "give the path of a folder"),
    ],
)
def test_mistakes_are_named_before_anything_runs(recipe, old, new, says):
    assert old in recipe.read_text()
    recipe.write_text(recipe.read_text().replace(old, new))
    with pytest.raises(SettingsError, match=says.replace("?", r"\?")):
        load_recipe(recipe)


def test_a_baseline_is_an_artefact_of_an_earlier_step(recipe, tmp_path):
    text = recipe.read_text()
    dense = "{method: perplexity, model: base, data: heldout, num_windows: 2, window_tokens: 32"
    text = text.replace("steps:", f"steps:\n  - evaluate: {dense}, out: dense.ppl}}")
    recipe.write_text(text.replace("out: small.ppl}", "baseline: dense.ppl, out: small.ppl}"))
    list(run_recipe(recipe))
    assert '"perplexity_ratio"' in (tmp_path / "runs" / "small.ppl" / "result.json").read_text()
    recipe.write_text(recipe.read_text().replace("window_tokens: 32, out: dense", "out: dense"))
    assert states(recipe, dry_run=True)[2] == "would run", "it depends on the baseline"


def test_a_folder_that_no_run_made_is_not_replaced(recipe, tmp_path, model):
    shutil.copytree(model, tmp_path / "runs" / "small")
    with pytest.raises(SettingsError, match="which no run of this recipe made"):
        list(run_recipe(recipe))
    assert (tmp_path / "runs" / "small" / "model.safetensors").is_file()


ODD_NAMES = ["../precious", "/tmp/precious", "a/b", ".hidden", "''", '"a\\0b"', "é" * 150, "b/"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_artefacts_stay_in_the_recipes_folder(recipe, name):
    recipe.write_text(recipe.read_text().replace("out: small.ppl", f"out: {name}"))
    with pytest.raises(SettingsError, match="is no plain name"):
        load_recipe(recipe)


@pytest.mark.parametrize(
    ("setting", "says"),
    [("pattern: 2:4", "unless it is quoted"), ("sparsity: half", "sparsity = 'half'")],
)
def test_values_of_the_wrong_type_are_named_before_anything_runs(recipe, setting, says):
    recipe.write_text(recipe.read_text().replace("method: wanda,", f"method: wanda, {setting},"))
    with pytest.raises(SettingsError, match=says):
        load_recipe(recipe)


def test_a_refused_step_leaves_nothing(recipe, tmp_path):
    recipe.write_text(recipe.read_text().replace("stdlib:calibration", "nowhere.txt"))
    with pytest.raises(TreadleError, match=r"nowhere\.txt"):
        list(run_recipe(recipe))
    assert not [file for file in (tmp_path / "runs").rglob("*") if file.is_file()]


@pytest.mark.parametrize("steps", ["[]", "[{evaluate: 3}]", "[{evaluate: x}]", "[{evaluate: [1]}]"])
def test_steps_without_settings(steps, tmp_path):
    (tmp_path / "r.yaml").write_text(f"steps: {steps}")
    with pytest.raises(SettingsError, match=r"empty list 'steps'|\(evaluate\) has no settings but"):
        load_recipe(tmp_path / "r.yaml")


def test_missing_or_damaged_file(tmp_path):
    with pytest.raises(DataError, match="No recipe at"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("steps: [")
    with pytest.raises(DataError, match="is not YAML"):
        load_recipe(tmp_path / "bad.yaml")


ACTIONS = """
out: {out}
artefacts: {{base: {model}}}
steps:
  - merge: {{action: inspect, models: [base, base], out: look}}
  - merge: {{action: yaml, recipe: {recipe}, out: m3}}
"""


def test_actions_are_steps(tmp_path, model):
    merge = tmp_path / "recipe.yml"
    merge.write_text(f"merge_method: linear\nmodels: [{{model: {model}}}]\n")
    path = tmp_path / "recipe.yaml"
    path.write_text(ACTIONS.format(out=tmp_path / "runs", model=model, recipe=merge))
    lines = list(run_recipe(path))
    assert lines[0].startswith("1/2 merge inspect base base -> look: ")
    assert lines[1].startswith(f"2/2 merge yaml {merge} -> m3: ")
    assert states(path) == ["there already"] * 2
    path.write_text(path.read_text().replace(", out: look", ""))
    with pytest.raises(SettingsError, match=r"\(merge inspect\): the setting 'out' is missing"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("step", "says"),
    [
        ("{method: inspect, models: [b], out: o}", "'inspect' is no method but an action"),
        ("{action: inspekt, models: [b], out: o}", "no action 'inspekt'. Did you mean 'inspect'"),
    ],
)
def test_actions_are_named_as_such(step, says, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"steps:\n  - merge: {step}\n")
    with pytest.raises(SettingsError, match=re.escape(says)):
        load_recipe(path)


SERVED = """
out: {out}
artefacts: {{base: {model}}}
steps:
  - evaluate: {{method: perplexity, model: base, data: stdlib:heldout, num_windows: 2,
      window_tokens: 32, through: runtime, weights: q8, keep: {{method: sinks, sinks: 2}},
      keep_budget: 8, keep.chunk_tokens: 16, cache_bytes: 8MiB, out: q8}}
  - prune: {{method: magnitude, model: base, update: obs, update.damp_fraction: 0.2, out: sinks,
      text: stdlib:calibration, num_windows: 2, window_tokens: 32}}
"""


def test_settings_of_axes_and_engines_are_keys_and_no_artefacts(tmp_path, model):
    path = tmp_path / "recipe.yaml"
    path.write_text(SERVED.format(out=tmp_path / "runs", model=model))
    assert len(list(run_recipe(path))) == 2
    settings = read_result(tmp_path / "runs" / "q8").settings
    own = {"method": "sinks", "chunk_tokens": 16, "sinks": 2}
    assert own.items() <= settings["keep"].items()
    assert (settings["weights"], settings["cache_bytes"]) == ("q8", 8 << 20)
    update = read_result(tmp_path / "runs" / "sinks").settings["update"]
    assert update["damp_fraction"] == 0.2
    for wrong, says in {
        "cache_bytes: 8MiB": ("cache_bytes: 8000000", "has no unit; write 8000000GiB"),
        "damp_fraction: 0.2": ("damp_fraction: 7", "less than or equal to 1"),
        "update.damp_fraction": ("update.damp_fractoin", "Did you mean 'damp_fraction'"),
        "keep.chunk_tokens": ("kept.chunk_tokens", "unknown setting 'kept.chunk_tokens'"),
    }.items():
        path.write_text(SERVED.format(out=tmp_path / "r", model=model).replace(wrong, says[0]))
        with pytest.raises(SettingsError, match=re.escape(says[1])):
            load_recipe(path)


def test_a_text_in_place_of_a_list(tmp_path, model):
    path = tmp_path / "recipe.yaml"
    path.write_text("steps:\n  - merge: {method: linear, models: there, out: m}\n")
    with pytest.raises(SettingsError, match=r"Write a list: \[there\]") as caught:
        load_recipe(path)
    assert "2:4" not in str(caught.value)
