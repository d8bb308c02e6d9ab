"""A merge of MODEL+ADAPTER computes what the module does with scale * B A added where peft adds it.

The oracle is transformers' module: its own classes say which of its weights lie as [in, out].
"""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from naive import tokens_of
from treadle.combine.merge import merge

SCALE = 2.0


def lora(out: Path, module: PreTrainedModel, targets: Iterable[str], **config: object) -> Path:
    """Write an adapter of random factors and add its change to the module's weights."""
    draw, tensors = np.random.default_rng(7), {}
    for name in targets:
        part = module.get_submodule(name)
        shape = tuple(part.weight.shape)
        num_in, num_out = shape if isinstance(part, Conv1D) else shape[::-1]
        a, b = (draw.normal(size=s).astype(np.float32) for s in ((4, num_in), (num_out, 4)))
        change = torch.from_numpy(b @ a) * SCALE
        with torch.no_grad():
            part.weight += change.T if isinstance(part, Conv1D) else change
        for letter, values in (("A", a), ("B", b)):
            tensors[f"base_model.model.{name}.lora_{letter}.weight"] = values
    out.mkdir()
    save_file(tensors, out / "adapter_model.safetensors")
    full = {"peft_type": "LORA", "r": 4, "lora_alpha": 4 * SCALE, **config}
    (out / "adapter_config.json").write_text(json.dumps(full))
    return out


@pytest.mark.parametrize(
    ("model_type", "targets", "says_transposed"),
    [
        ("gpt2", ["attn.c_proj", "lm_head"], False),
        ("gpt2", ["attn.c_attn", "lm_head"], False),
        ("gpt2", ["mlp.c_fc", "attn.c_proj"], True),
        ("openai-gpt", ["attn.c_proj", "lm_head"], False),
        ("openai-gpt", ["attn.c_attn", "lm_head"], True),
        ("gpt_neo", ["attn.attention.out_proj", "lm_head"], True),
    ],
)
def test_each_module_lies_as_its_class_says(
    model_type: str, targets: list[str], says_transposed: bool, tmp_path: Path
) -> None:
    """peft writes of its last module alone whether the weight is transposed."""
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 320}
    kinds = {"attention_types": [[["global"], 1]]} if model_type == "gpt_neo" else {}
    config = AutoConfig.for_model(model_type, tie_word_embeddings=False, **sizes, **kinds)
    module = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    module.save_pretrained(tmp_path / "base")
    names = [name if name == "lm_head" else f"transformer.h.0.{name}" for name in targets]
    adapter = lora(tmp_path / "lora", module, names, fan_in_fan_out=says_transposed)
    merge([f"{tmp_path / 'base'}+{adapter}"], tmp_path / "out", "passthrough")
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    tokens = tokens_of(1, 16)
    with torch.no_grad():
        torch.testing.assert_close(
            found(input_ids=tokens).logits, module(input_ids=tokens).logits, rtol=1e-4, atol=1e-4
        )
