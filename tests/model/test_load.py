"""Finding and building models, and what is refused on the way."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from naive import plain_model, tokens_of
from products import each_kind
from treadle.core.checkpoint import CheckpointReader
from treadle.core.errors import CheckpointError, DataError, SettingsError, UnsupportedModelError
from treadle.model import facts, tiny
from treadle.model.layers import LayeredModel
from treadle.model.load import full, load_tokenizer, resolve, skeleton


@pytest.fixture
def copy(llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llama, tmp_path / "copy"))


def change_config(folder: Path, **fields: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))


def test_a_folder_is_itself(llama: Path) -> None:
    assert resolve(llama) == resolve(str(llama)) == llama


@pytest.mark.parametrize("name", ["nowhere", "./org/name", "/org/name", "a/b/c", "~/name"])
def test_no_folder(name: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        resolve(name)
    assert f"No model folder at '{name}'; give a Hugging Face folder" in str(caught.value)


def test_a_file_is_no_folder(llama: Path) -> None:
    with pytest.raises(CheckpointError, match="No model folder at"):
        resolve(llama / "config.json")


def test_a_hub_id_without_a_network() -> None:
    with pytest.raises(CheckpointError) as caught:
        resolve("treadle-tests/nothing")
    message = str(caught.value)
    assert "'treadle-tests/nothing' is no folder here and could not be fetched" in message
    assert "download it where the network allows and give its folder" in message


def test_an_unknown_packaged_model() -> None:
    with pytest.raises(SettingsError, match="No packaged model 'gpt9'"):
        resolve("packaged:gpt9")


def test_code_of_a_checkpoint_is_refused(copy: Path) -> None:
    change_config(copy, auto_map={"AutoModelForCausalLM": "evil.Evil"})
    (copy / "evil.py").write_text("raise SystemExit('ran')\n")
    for load in (full, lambda folder: LayeredModel(CheckpointReader(folder))):
        with pytest.raises(UnsupportedModelError) as caught:
            load(copy)
        assert "wants to run code from the checkpoint" in str(caught.value)
        assert "pass --trust-remote-code" in str(caught.value)


def test_an_unknown_architecture_is_refused_before_any_weight_is_read(copy: Path) -> None:
    change_config(copy, model_type="llama9")
    with pytest.raises(UnsupportedModelError, match=r"'llama9'.*Did you mean 'llama'"):
        full(copy)


def load_block(model: LayeredModel, layer: int) -> None:
    with model.block(layer):
        pass


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.1.mlp.up_proj.weight",
        "model.layers.1.input_layernorm.weight",
        "model.norm.weight",
    ],
)
def test_a_missing_tensor_is_named(name: str, copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    del tensors[name]
    save_file(tensors, copy / "model.safetensors")
    with CheckpointReader(copy) as reader, pytest.raises(CheckpointError) as caught:
        load_block(LayeredModel(reader), 1)
    assert f"Tensor '{name}' is missing from" in str(caught.value)
    assert "check that config.json belongs to these weights" in str(caught.value)


def test_a_missing_expert_is_named(tiny_model, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model("qwen3_moe"), tmp_path / "m"))
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.experts.2.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors")
    with CheckpointReader(folder) as reader, pytest.raises(CheckpointError) as caught:
        LayeredModel(reader).matrices(1)
    assert "'model.layers.1.mlp.experts.2.up_proj.weight' is missing" in str(caught.value)


CODE = """
from transformers import LlamaConfig, LlamaForCausalLM


class OwnConfig(LlamaConfig):
    pass


class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


def test_trusted_code_from_the_checkpoint_runs(copy: Path) -> None:
    (copy / "own.py").write_text(CODE)
    change_config(
        copy, auto_map={"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    )
    with CheckpointReader(copy) as reader:
        assert type(skeleton(reader, trust_remote_code=True)).__name__ == "OwnModel"


@pytest.mark.parametrize("model_type", each_kind(sorted(facts.ARCHITECTURES)))
def test_the_full_model_equals_transformers(model_type: str, tiny_model) -> None:
    tokens = tokens_of(2, 30)
    mine, theirs = full(tiny_model(model_type)), plain_model(tiny_model(model_type))
    assert mine.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(
            mine(input_ids=tokens).logits, theirs(input_ids=tokens).logits, rtol=1e-4, atol=1e-5
        )


def test_the_full_model_in_another_dtype(llama: Path) -> None:
    model = full(llama, "bfloat16")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_a_skeleton_takes_no_memory(llama: Path) -> None:
    with CheckpointReader(llama) as reader:
        module = skeleton(reader)
    assert all(parameter.is_meta for parameter in module.parameters())
    assert not module.training


def test_weights_that_do_not_belong_to_the_config(copy: Path) -> None:
    change_config(copy, num_hidden_layers=3)
    message = r"Tensor 'model\.layers\.2\..*' is missing"
    with CheckpointReader(copy) as reader, pytest.raises(CheckpointError, match=message):
        LayeredModel(reader)


def test_shapes_that_do_not_belong_to_the_config(copy: Path) -> None:
    change_config(copy, intermediate_size=95)
    message = r"gate_proj.weight' in '.*' has shape \[96, 64\], but config.json makes it \[95, 64\]"
    with CheckpointReader(copy) as reader, pytest.raises(CheckpointError, match=message):
        LayeredModel(reader)


def test_quantised_weights_are_refused(copy: Path) -> None:
    change_config(copy, quantization_config={"quant_method": "gptq"})
    with (
        CheckpointReader(copy) as reader,
        pytest.raises(UnsupportedModelError, match=r"gptq|quantiz"),
    ):
        LayeredModel(reader)


def test_a_tokenizer_that_is_not_there(tmp_path: Path) -> None:
    tiny.model("llama").save_pretrained(tmp_path)
    with pytest.raises(DataError) as caught:
        load_tokenizer(tmp_path)
    assert f"'{tmp_path}' has no tokenizer that can be read" in str(caught.value)
    assert "copy the tokenizer files of the original model into it" in str(caught.value)


def test_an_unknown_tiny_model() -> None:
    with pytest.raises(SettingsError, match=r"of type 'lama'\. Did you mean 'llama'\?"):
        tiny.model("lama")


def test_tiny_models_depend_on_the_seed_alone(tmp_path: Path) -> None:
    from treadle.core.checkpoint import content_hash

    first, second = (tiny.build("llama", tmp_path / name) for name in ("a", "b"))
    assert content_hash(first) == content_hash(second)
    assert content_hash(first) != content_hash(tiny.build("llama", tmp_path / "c", seed=1))


def add_tensors(folder: Path, **tensors: torch.Tensor) -> None:
    stored = load_file(folder / "model.safetensors")
    save_file({**stored, **tensors}, folder / "model.safetensors", {"format": "pt"})


def test_layers_beyond_those_of_the_config_are_refused(copy: Path) -> None:
    change_config(copy, num_hidden_layers=1)
    with (
        CheckpointReader(copy) as reader,
        pytest.raises(
            CheckpointError, match=r"makes 1 layers, but 9 tensors .*\(2 layers are stor"
        ),
    ):
        skeleton(reader)
    change_config(copy, num_nextn_predict_layers=1)
    with CheckpointReader(copy) as reader:
        skeleton(reader)


def test_tensors_without_a_place_are_refused_once_they_matter(copy: Path) -> None:
    block = "model.layers.0.self_attn."
    harmless = {
        f"{block}rotary_emb.inv_freq": torch.ones(8),
        f"{block}q_proj.bias": torch.zeros(64),
        "model.vision_tower.weight": torch.ones(3),
        "lm_head.weight": load_file(copy / "model.safetensors")["model.embed_tokens.weight"],
    }
    add_tensors(copy, **harmless)
    with CheckpointReader(copy) as reader:
        skeleton(reader)
    add_tensors(copy, **{f"{block}k_proj.bias": torch.ones(32)})
    with (
        CheckpointReader(copy) as reader,
        pytest.raises(CheckpointError, match=r"1 tensors of .* \(the first is .*k_proj.bias'"),
    ):
        skeleton(reader)


@pytest.mark.parametrize("longest", [{}, "many", [], None])
def test_a_tokenizer_that_loads_and_does_not_read(longest: object, copy: Path) -> None:
    file = copy / "tokenizer_config.json"
    said = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps(said | {"model_max_length": longest}))
    if longest is None:  # transformers takes its own default
        assert load_tokenizer(copy)("a").input_ids
        return
    with pytest.raises(DataError, match=rf"'{copy}' has no tokenizer that can be read"):
        load_tokenizer(copy)


def test_a_model_with_an_adapter_is_told_where_it_may_stand(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"only treadle merge takes like this: run treadle m"):
        resolve(f"{llama}+{tmp_path / 'lora'}")
