"""What is wrong is said, by class and message; no output is left, and an old one stays."""

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from combine.merge.models import run, with_config
from naive import files_of
from treadle.combine.merge import merge, merge_yaml
from treadle.core.checkpoint import CheckpointReader
from treadle.core.errors import CapacityError, CheckpointError, SettingsError, UnsupportedModelError


def damaged(model: Path, out: Path, tensor: str, element: int, value: float) -> Path:
    """Copy a model and overwrite one float32."""
    shutil.copytree(model, out)
    with CheckpointReader(out) as reader:
        info = reader.tensors[tensor]
        with info.file.open("rb+") as file:
            file.seek(info.start_byte + 4 * element)
            file.write(np.float32(value).tobytes())
    return out


@pytest.fixture
def old(family, tmp_path) -> Path:
    """Return an earlier output, which a failing merge must leave alone."""
    run(family.experts, tmp_path / "out", "linear")
    return tmp_path / "out"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("method", ["linear", "ties", "slerp"])
def test_a_number_that_is_none_is_named_with_its_place(family, value, method, tmp_path, old):
    name = "model.layers.1.mlp.up_proj.weight"
    bad = damaged(family.experts[0], tmp_path / "bad", name, 77, value)
    before = files_of(old)
    base = {} if method == "linear" else {"base": family.base}
    models = [bad, family.experts[1]] if method != "slerp" else [bad]
    with pytest.raises(CheckpointError, match=rf"'{name}' in '.*bad.*at element 77.*leave it out"):
        run(models, old, method, overwrite=True, **base)
    assert files_of(old) == before
    assert {path.name for path in tmp_path.iterdir()} == {"bad", "out"}


def test_different_architectures_are_refused(family, tiny_model, tmp_path):
    with pytest.raises(CheckpointError, match="merge models of one architecture"):
        run([family.base, tiny_model("gpt2")], tmp_path / "out", "linear")


def test_different_sizes_are_refused(family, tiny_model, tmp_path):
    wider = tiny_model("llama", intermediate_size=112)
    with pytest.raises(CheckpointError, match=r"down_proj.*\[64, 112\].*\[64, 96\]"):
        run([family.base, wider], tmp_path / "out", "linear")


def test_different_depths_are_refused(family, tiny_model, tmp_path):
    deeper = tiny_model("llama", num_hidden_layers=3)
    with pytest.raises(CheckpointError, match=r"has 2 layers .*and '.*' has 3; merge models"):
        run([family.base, deeper], tmp_path / "out", "linear")


def test_different_vocabularies_are_refused(family, tiny_model, tmp_path):
    larger = tiny_model("llama", vocab_size=336)
    with pytest.raises(CheckpointError, match="--tokenizer union"):
        run([family.base, larger], tmp_path / "out", "linear")


@pytest.mark.parametrize("method", ["ties", "model_stock", "task_arithmetic"])
def test_a_missing_base_is_asked_for(family, method, tmp_path):
    with pytest.raises(SettingsError, match=f"'{method}' needs the base.*--base"):
        run(family.experts, tmp_path / "out", method)


@pytest.mark.parametrize(
    ("method", "settings", "says"),
    [
        ("ties", {"density": 1.5}, "density = 1.5|density.*1.5"),
        ("ties", {"density": -0.1}, "density"),
        ("linear", {"weight": [1.0, -1.0, 0.0]}, "sum to zero"),
        ("linear", {"weight": [1.0, 1.0]}, "weight has 2 values for 3 models"),
        ("linear", {"dtype": "int8"}, "int8"),
        ("linear", {"workers": 0}, "workers = 0; give at least 1"),
        ("slerp", {}, "merges 1 model beside the base, but 2 were given"),
    ],
)
def test_settings_out_of_range_are_refused(family, method, settings, says, tmp_path):
    base = {} if method == "linear" else {"base": family.base}
    models = family.experts[: 2 if method == "slerp" else 3]
    with pytest.raises(SettingsError, match=says):
        run(models, tmp_path / "out", method, **base, **settings)
    assert not list(tmp_path.iterdir())


def test_a_base_without_use_is_refused(family, tmp_path):
    with pytest.raises(SettingsError, match="has no use for the base"):
        run(family.experts, tmp_path / "out", "linear", base=family.base)


def test_the_output_may_not_be_an_input(family, tmp_path):
    model = Path(shutil.copytree(family.base, tmp_path / "m"))
    before = files_of(model)
    with pytest.raises(SettingsError, match="is the folder of the model"):
        run([model, family.experts[0]], model, "linear", overwrite=True)
    assert files_of(model) == before


def test_quantised_models_are_refused(family, tmp_path):
    model = Path(shutil.copytree(family.base, tmp_path / "m"))
    with_config(model, quantization_config={"quant_method": "gptq"})
    with pytest.raises(UnsupportedModelError, match="quantised"):
        run([model, family.experts[0]], tmp_path / "out", "linear")


def test_a_full_disk_leaves_the_old_output(family, old, monkeypatch):
    before = files_of(old)
    written = 0

    def pwrite(descriptor, data, offset, real=os.pwrite):
        nonlocal written
        written += len(data)
        if written > 50_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(CapacityError, match="partial folder was removed"):
        run(family.experts, old, "ties", base=family.base, overwrite=True)
    assert files_of(old) == before


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("merge_method: tiess\nmodels: [{model: BASE}]\n", "ties"),
        ("merge_method: linear\nmodel: BASE\n", "models"),
        ("merge_method: linear\nmodels: [{model: BASE}]\nslices: []\n", "contradictory"),
        ("merge_method: linear\nmodels: [{model: BASE}]\nparameters: {wieght: 1}\n", "weight"),
        ("merge_method: linear\nmodels: [{model: BASE}]\nx-repeat_scal: 1\n", "x-repeat-scale"),
        (
            "merge_method: passthrough\nslices:\n- sources: [{model: BASE, layer_range: [0, 9]}]\n",
            "ends after its 2 layers",
        ),
    ],
)
def test_mistakes_in_a_recipe_name_the_near_word(family, text, says, tmp_path):
    recipe = tmp_path / "recipe.yml"
    recipe.write_text(text.replace("BASE", str(family.base)))
    with pytest.raises(SettingsError, match=says):
        merge_yaml(recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_adapter_for_another_base_is_refused(family, tiny_model, tmp_path):
    from safetensors.numpy import save_file

    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]})
    )
    stem = "base_model.model.model.layers.0.self_attn.q_proj"
    factors = {"lora_A": np.ones((2, 48), np.float32), "lora_B": np.ones((64, 2), np.float32)}
    save_file(
        {f"{stem}.{name}.weight": value for name, value in factors.items()},
        adapter / "adapter_model.safetensors",
    )
    with pytest.raises(CheckpointError, match=r"q_proj.*another base|q_proj"):
        merge([f"{family.base}+{adapter}", family.experts[0]], tmp_path / "out", "linear")


def test_a_damaged_shard_is_named(family, tmp_path):
    model = Path(shutil.copytree(family.base, tmp_path / "m"))
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="truncated"):
        run([model, family.experts[0]], tmp_path / "out", "linear")


def test_an_existing_output_is_kept(family, old):
    before = files_of(old)
    with pytest.raises(SettingsError, match="already exists"):
        run(family.experts, old, "linear")
    assert files_of(old) == before


def test_float16_that_overflows_is_refused(family, tmp_path):
    model = damaged(family.base, tmp_path / "big", "model.norm.weight", 0, 1e6)
    with pytest.raises(SettingsError, match="more than F16 can express"):
        run([model], tmp_path / "out", "linear", dtype="float16")
