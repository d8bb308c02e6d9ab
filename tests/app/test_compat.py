"""What `treadle compat` says, and that what it says of the loaders at hand is true."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from naive import config_of, plain_model
from products import each_kind
from shrink.prune.runs import run
from treadle.app.compat import Verdict, check, compat
from treadle.app.export import export
from treadle.app.loaders import FOREIGN, LOOKED_FOR
from treadle.cli import main
from treadle.core.errors import CheckpointError
from treadle.model import facts

MODELS = sorted(facts.ARCHITECTURES)
PROGRAMS = ("vLLM", "llama.cpp", "mergekit")


def verdicts_of(folder: Path) -> dict[str, Verdict]:
    return {verdict.loader: verdict for verdict in check(folder)}


def takes(folder: Path) -> list[bool | None]:
    """In the order transformers, treadle, vLLM, llama.cpp, mergekit."""
    return [verdict.takes for verdict in check(folder)]


def edited(folder: Path, out: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    shutil.copytree(folder, out)
    config = config_of(out)
    change(config)
    (out / "config.json").write_text(json.dumps(config))
    return out


@pytest.fixture(scope="module")
def uneven(tiny_model, tmp_path_factory) -> Path:
    """Return a folder whose heads gpt2's config cannot say."""
    out = tmp_path_factory.mktemp("uneven") / "gpt2"
    settings = {"pattern": "heads", "sparsity": 0.5, "allow_nonuniform": True}
    run(tiny_model("gpt2"), out, "magnitude", **settings)
    return out


@pytest.mark.parametrize("model_type", each_kind(MODELS))
def test_a_plain_folder_of_every_architecture(model_type: str, tiny_model) -> None:
    found = verdicts_of(tiny_model(model_type))
    assert list(found) == ["transformers", "treadle", *PROGRAMS]
    assert (found["transformers"].takes, found["treadle"].takes) == (True, True)
    plain_model(tiny_model(model_type))
    assert found["vLLM"].takes is True
    assert found["llama.cpp"].takes is (model_type != "opt")
    others = {"opt": None, "qwen2_moe": None, "smollm3": None, "olmoe": None}
    others["gpt_neox"] = False
    assert found["mergekit"].takes is others.get(model_type, True)
    for name in PROGRAMS:
        assert ("not run here" in found[name].why) == (found[name].takes is True)


def test_the_tables_name_the_classes_of_the_facts(tiny_model) -> None:
    classes = {config_of(tiny_model(model_type))["architectures"][0] for model_type in MODELS}
    assert classes == LOOKED_FOR
    for loader in FOREIGN:
        assert loader.listed <= LOOKED_FOR


def test_the_text_of_a_plain_folder(llama: Path) -> None:
    lines = compat(llama).splitlines()
    assert lines[0] == f"{llama}: llama, 20 tensors in 1 file, float32, tied head"
    assert lines[2] == "treadle       yes  has facts of model_type 'llama', and the shapes fit"
    assert lines[5].startswith("mergekit      yes  lists LlamaForCausalLM as of the architecture")


def test_uneven_blocks_are_for_treadle_alone_until_they_are_padded(
    uneven: Path, tmp_path: Path
) -> None:
    assert takes(uneven) == [False, True, False, False, False]
    assert "treadle export FOLDER OUT --pad" in verdicts_of(uneven)["vLLM"].why
    assert "gpt2, " in compat(uneven).splitlines()[0]
    assert "blocks of differing width" in compat(uneven).splitlines()[0]
    with pytest.raises(ValueError, match="treadle_nonuniform"):
        AutoModelForCausalLM.from_pretrained(uneven)
    export(uneven, tmp_path / "out", pad=True)
    assert takes(tmp_path / "out") == [True] * 5


def test_a_required_side_file_keeps_foreign_loaders_out(llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(llama, folder)
    side_file = {"path": "packed.bin", "kind": "sparse", "version": 1, "base_hash": ""}
    provenance = {"verb": "test"}
    for required in (False, True):
        manifest = {"side_files": [{**side_file, "required": required}], "provenance": provenance}
        (folder / "treadle.json").write_text(json.dumps(manifest))
        assert takes(folder) == [not required] * 5
    assert "would compute something else without packed.bin" in verdicts_of(folder)["mergekit"].why


def test_weights_of_another_config(llama: Path, tmp_path: Path) -> None:
    wrong = edited(llama, tmp_path / "m", lambda config: config.update(intermediate_size=80))
    assert takes(wrong) == [False] * 5
    assert "has shape [96, 64], but config.json makes it [80, 64]" in compat(wrong)
    odd = edited(llama, tmp_path / "odd", lambda config: config.update(num_attention_heads=7))
    assert takes(odd) == [False, False, None, None, None]
    assert "transformers cannot build the model that config.json of" in compat(odd)


def test_layers_that_the_config_does_not_count(llama: Path, tmp_path: Path) -> None:
    short = edited(llama, tmp_path / "short", lambda config: config.update(num_hidden_layers=1))
    AutoModelForCausalLM.from_pretrained(short)  # the oracle: it loads
    found = verdicts_of(short)
    assert found["transformers"].takes is True
    assert "leaves out 9 tensors that config.json has no place for" in found["transformers"].why
    assert found["treadle"].takes is False
    assert "correct num_hidden_layers (2 layers are stored)" in found["treadle"].why
    assert all(found[loader.name].takes is None for loader in FOREIGN)


def test_a_model_of_images_is_one_that_transformers_loads(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    config = AutoConfig.for_model("vit", image_size=28, patch_size=14, **sizes)
    AutoModel.from_config(config).save_pretrained(tmp_path / "vit")
    AutoModel.from_pretrained(tmp_path / "vit")  # the oracle: it loads
    found = verdicts_of(tmp_path / "vit")["transformers"]
    assert found.takes is True
    assert found.why.startswith("AutoModel of ")


def test_a_missing_shard(llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(llama, folder)
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert takes(folder) == [False] * 5
    assert "names the shard model-00001-of-00002.safetensors" in compat(folder)
    assert "weights cannot be read" in compat(folder)


def test_pickled_weights(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((llama / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    assert takes(tmp_path) == [None, False, None, None, None]


def test_quantised_weights(llama: Path, tmp_path: Path) -> None:
    said = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    folder = edited(llama, tmp_path / "q", lambda config: config.update(said))
    assert takes(folder) == [None, False, None, None, None]
    assert "quantised (gptq): not checked here" in compat(folder)


def test_8_bit_floats_without_scales(llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(llama, folder)
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = tensors[name].to(torch.float8_e4m3fn)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert takes(folder) == [None, False, None, None, None]
    assert "float32 and float8_e4m3fn" in compat(folder)


def test_remote_code(llama: Path, tmp_path: Path) -> None:
    said = {"auto_map": {"AutoModelForCausalLM": "modeling_mine.Mine"}}
    folder = edited(llama, tmp_path / "m", lambda config: config.update(said))
    assert takes(folder) == [None, False, None, None, None]
    assert "then pass --trust-remote-code" in verdicts_of(folder)["treadle"].why


def test_an_architecture_that_nobody_here_knows(llama: Path, tmp_path: Path) -> None:
    said = {"model_type": "lama", "architectures": ["LamaForCausalLM"]}
    folder = edited(llama, tmp_path / "m", lambda config: config.update(said))
    assert takes(folder) == [False, False, None, None, None]
    assert "'LamaForCausalLM' was not looked for in" in verdicts_of(folder)["vLLM"].why
    # One that transformers knows, and treadle does not.
    said = {"model_type": "olmo", "architectures": ["OlmoForCausalLM"]}
    folder = edited(llama, tmp_path / "olmo", lambda config: config.update(said))
    assert takes(folder) == [True, False, None, None, None]
    assert "whether the shapes fit was not checked" in verdicts_of(folder)["transformers"].why


def test_no_tokenizer(llama: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(llama / name, tmp_path / name)
    assert takes(tmp_path) == [True, True, True, False, True]
    assert "without a tokenizer it reads no text" in verdicts_of(tmp_path)["treadle"].why


def test_a_head_that_the_config_ties_and_the_folder_does_not(llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(llama, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert takes(folder) == [True, True, None, None, None]
    assert not np.array_equal(  # transformers keeps both, as treadle does
        plain_model(folder).lm_head.weight.numpy(force=True),
        plain_model(folder).model.embed_tokens.weight.numpy(force=True),
    )


def test_heads_that_are_not_hidden_size_over_heads(tiny_model, tmp_path: Path) -> None:
    for model_type, expected in (("phi3", None), ("llama", True)):
        out = tmp_path / model_type
        run(tiny_model(model_type), out, "magnitude", pattern="heads", sparsity=0.5)
        assert takes(out) == [True, True, expected, expected, True]


@pytest.mark.parametrize("kind", ["LORA", "IA3"])
def test_an_adapter(kind: str, tmp_path: Path) -> None:
    said = {"peft_type": kind, "base_model_name_or_path": "org/base"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(said))
    assert takes(tmp_path) == [None, False, None, None, None]
    assert compat(tmp_path).startswith(f"{tmp_path}: a PEFT adapter, no model\n")
    why = verdicts_of(tmp_path)["treadle"].why
    assert why.startswith(f"{kind} adapter of 'org/base', no model")
    assert ("treadle merge METHOD BASE+FOLDER OUT" in why) == (kind == "LORA")


def test_an_adapter_beside_a_model(llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(llama, folder)
    (folder / "adapter_config.json").write_text("{}")
    assert takes(folder) == [None, True, True, True, True]


def test_folders_that_are_neither(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config.json, so it is not a Hugging Face"):
        compat(tmp_path)
    (tmp_path / "adapter_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="holds no JSON object"):
        compat(tmp_path)
    with pytest.raises(CheckpointError, match="No model folder at"):
        compat(tmp_path / "nowhere")


def test_on_the_command_line(llama: Path, capsys) -> None:
    assert main(["compat", str(llama)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 6
