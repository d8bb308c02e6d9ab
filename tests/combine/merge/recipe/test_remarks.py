"""What mergekit's cards say without effect is noted, not refused; real typos stay errors."""

import warnings
from pathlib import Path

import pytest

from combine.merge.models import arrays_of, run
from treadle.combine.merge import merge, merge_inspect, merge_yaml
from treadle.core.errors import CheckpointError, SettingsError
from treadle.core.result import Result


@pytest.fixture
def merged(family, tmp_path):
    """Return a function that runs a recipe in which BASE, E0, E1 and E2 stand for the family."""

    def run_text(text: str) -> Result:
        for word, folder in zip(
            ("BASE", "E0", "E1", "E2"), (family.base, *family.experts), strict=True
        ):
            text = text.replace(word, str(folder))
        (tmp_path / "recipe.yml").write_text(text)
        return merge_yaml(tmp_path / "recipe.yml", tmp_path / "out", overwrite=True)

    return run_text


SLERP = "merge_method: slerp\nbase_model: BASE\nmodels: [{model: BASE}, {model: E0}]\n"
TIES = "merge_method: ties\nbase_model: BASE\nmodels: [{model: E0}, {model: E1}]\n"
LINEAR = "merge_method: linear\nmodels: [{model: E0}, {model: E1}]\n"


def test_parameters_of_other_methods_are_noted(merged):
    names = ("normalize", "rescale", "density", "lambda", "gamma", "embed_slerp", "filter_wise")
    shared = ", ".join(f"{name}: 1" for name in names)
    notes = merged(f"{SLERP}name: card\nparameters: {{t: 0.5, int8_mask: true, {shared}}}\n").notes
    for name in names:
        assert f"'{name}' has no effect in 'slerp'." in notes
    assert any("'int8_mask' has no effect" in note for note in notes)
    assert any("The key 'name' has no effect" in note for note in notes)


def test_a_models_own_parameter_of_another_method_is_noted(merged):
    text = "models: [{model: E0, parameters: {weight: 1, epsilon: 0.1}}, {model: E1}]\n"
    notes = merged(f"merge_method: linear\n{text}").notes
    assert "'epsilon' has no effect in 'linear'." in notes


def test_real_typos_are_refused(merged):
    with pytest.raises(SettingsError, match=r"'wieght'.*Did you mean 'weight'"):
        merged(f"{TIES}parameters: {{wieght: 1}}\n")


def test_the_weight_of_residuals_is_noted(merged):
    source = "sources: [{model: E0, layer_range: [0, 2]}], residual_weight: 1"
    notes = merged(f"merge_method: passthrough\nslices: [{{{source}}}]\n").notes
    assert any("'residual_weight' has no effect" in note for note in notes)


def test_a_recipe_without_weights_is_noted(merged):
    note = "weight was not given: 1.0 for all models."
    assert note in merged(TIES).notes
    assert note in merged(LINEAR).notes
    assert note not in merged(f"{LINEAR}parameters: {{weight: 2}}\n").notes


def test_filters_that_match_nothing_are_noted(merged):
    condition = "[{filter: mpl, value: 2}, {filter: mlp, value: 3}, {value: 1}]"
    notes = merged(f"{LINEAR}parameters: {{weight: {condition}}}\n").notes
    assert [note for note in notes if "filter" in note] == [
        "The filter 'mpl' of 'weight' (the recipe) matches no tensor."
    ]


def test_a_model_that_is_listed_twice_is_noted(family, merged, tmp_path):
    notes = merged("merge_method: linear\nmodels: [{model: E0}, {model: E0}]\n").notes
    assert any("is listed 2 times, so it counts 2 times" in note for note in notes)
    twice = run([family.experts[0]] * 2, tmp_path / "twice", "linear")
    assert any("is listed 2 times" in note for note in twice.notes)


@pytest.mark.parametrize("setting", ["density", "weight"])
def test_nothing_of_any_model_is_noted(family, merged, setting, tmp_path):
    note = f"{setting} is 0 for all models, so nothing of them is in the output."
    assert note in merged(f"{TIES}parameters: {{{setting}: 0}}\n").notes
    own = {setting: (0.0,)}
    assert note in run(family.experts, tmp_path / "a", "ties", base=family.base, **own).notes
    assert note not in run(family.experts, tmp_path / "b", "ties", base=family.base).notes


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ("density: [0.1, 1.2]", r"density = \[0.1, 1.2\] is refused: .*less than or equal to 1, f"),
        ("density: 1.5", "density = 1.5 is refused: expected less than or equal to 1"),
        ("weight: .nan", "weight = nan is refused: expected a finite number"),
        ("lambda: .inf", "lambda = inf is refused: expected a finite number"),
        (
            "weight: [1, -.inf]",
            r"weight = \[1, -inf\] is refused: expected a finite number, found -inf",
        ),
    ],
)
def test_values_out_of_bounds_are_named(merged, parameters, says):
    with pytest.raises(
        SettingsError, match=f"Merge method 'ties', tensor 'model.*: {says}"
    ) as found:
        merged(f"{TIES}parameters: {{{parameters}}}\n")
    assert "Value error" not in str(found.value)
    assert "(," not in str(found.value)


def test_a_models_own_value_out_of_bounds_names_the_model(merged):
    models = "[{model: E0}, {model: E1, parameters: {density: -0.5}}]"
    text = f"merge_method: ties\nbase_model: BASE\nmodels: {models}\n"
    with pytest.raises(SettingsError, match=r"density of model '.*expert2' = -0.5 is refused"):
        merged(text)


def test_settings_that_contradict_each_other_are_refused(merged):
    text = TIES.replace("ties", "della")
    with pytest.raises(SettingsError, match=r"'della', tensor '.*': density 0.1 ± epsilon 0.15"):
        merged(f"{text}parameters: {{density: 0.1}}\n")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_settings_that_are_no_numbers_are_refused_in_python(family, value, tmp_path):
    for chosen in ({"weight": (1.0, value)}, {"lambda": value}):
        with pytest.raises(
            SettingsError, match=r"(weight|lambda) = (nan|inf) is refused: expected a"
        ):
            merge(
                family.experts[:2], tmp_path / "o", {"method": "ties", **chosen}, base=family.base
            )


def test_weights_that_overflow_warn_nobody(family, tmp_path):
    weights = {"method": "linear", "weight": (1e39, 1e39), "normalize": False}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(CheckpointError, match="overflows float32"):
            merge(family.experts[:2], tmp_path / "out", weights)


def test_lists_are_asked_for(family, tmp_path):
    with pytest.raises(SettingsError, match=r"is one text, but a list was expected; write \['"):
        merge(str(family.base), tmp_path / "out", "linear")
    with pytest.raises(SettingsError, match="is one text, but a list was expected"):
        merge_inspect(family.base)
    with pytest.raises(SettingsError, match="name at least one model"):
        merge([], tmp_path / "out", "linear")


def test_a_missing_adapter_is_called_one(family, tmp_path):
    with pytest.raises(CheckpointError, match=r"No adapter at '.*nolora'.*adapter_config\.json"):
        merge([f"{family.base}+{tmp_path / 'nolora'}"], tmp_path / "out", "linear")


def test_a_recipe_speaks_of_its_own_keys(family, tiny_model, merged, tmp_path):
    larger = tiny_model("llama", vocab_size=336)
    text = f"merge_method: linear\nmodels: [{{model: BASE}}, {{model: {larger}}}]\n"
    with pytest.raises(CheckpointError, match="give tokenizer_source: union"):
        merged(text)
    with pytest.raises(SettingsError, match="name it as base_model"):
        merged("merge_method: ties\nmodels: [{model: E0}]\n")


def test_a_mapping_is_a_method(family, tmp_path):
    chosen = {"method": "ties", "density": 0.3}
    found = merge(family.experts, tmp_path / "a", chosen, base=family.base)
    run(family.experts, tmp_path / "b", "ties", base=family.base, density=0.3)
    assert found.settings["density"] == [0.3]
    for name, values in arrays_of(tmp_path / "a").items():
        assert (values == arrays_of(tmp_path / "b")[name]).all()


def test_actions_come_from_the_package():
    import treadle

    assert treadle.merge_yaml is merge_yaml
    assert treadle.merge_inspect is merge_inspect
    assert {"merge", "merge_yaml", "merge_inspect"} <= set(dir(treadle))
    with pytest.raises(AttributeError, match="has no verb 'merge_ymal'"):
        _ = treadle.merge_ymal


def test_a_first_model_without_a_tokenizer_is_noted(family, tmp_path):
    import shutil

    bare = Path(shutil.copytree(family.experts[0], tmp_path / "bare"))
    shutil.copytree(bare, tmp_path / "with")
    shutil.copyfile(family.base / "tokenizer.json", tmp_path / "with" / "tokenizer.json")
    for file in bare.glob("tokenizer*"):
        file.unlink()
    notes = run([bare, tmp_path / "with"], tmp_path / "out", "linear").notes
    assert any("The output has no tokenizer: " in note for note in notes)
