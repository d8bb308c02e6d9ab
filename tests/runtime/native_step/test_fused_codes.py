"""Codes of fused matrices and of experts: cut as they are stored, and nothing rounded again."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from coded_models import dense_twin, gptq, grid, pack_quantized
from naive import all_matrices, plain_model, tokens_of
from runtime.flat import pool_of, rows_of
from runtime.native_step.variants import build
from treadle.native.loader import library
from treadle.runtime.native_step.llama import LlamaStep

pytestmark = pytest.mark.skipif(library("step") is None, reason="needs a C compiler")
COMPRESSED = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "config_groups": {
        "group_0": {
            "weights": {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "group"}
        }
    },
    "ignore": ["lm_head"],
}
COMPRESSED["config_groups"]["group_0"]["weights"]["group_size"] = 32
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": False}
TOKENS = tokens_of(1, 60)[0].tolist()


def coded(folder: Path, out: Path, pack, config) -> dict[str, np.ndarray]:
    """Quantise every tensor that holds matrices of blocks; return what they decode to."""
    shutil.copytree(folder, out)
    tensors, decoded = load_file(folder / "model.safetensors"), {}
    for name in sorted({matrix.tensor for matrix in all_matrices(folder)}):
        codes = grid(tensors.pop(name))
        tensors |= pack(name.removesuffix(".weight"), codes)
        decoded[name] = codes.weights()
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    said = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(said | {"quantization_config": config}))
    return decoded


@pytest.mark.filterwarnings("ignore::treadle.native.loader.SlowPathWarning")  # 48 columns
@pytest.mark.parametrize("name", ["phi3", "gpt_neox", "qwen2_moe"])
@pytest.mark.parametrize(("pack", "config"), [(pack_quantized, COMPRESSED), (gptq, GPTQ)])
def test_codes_of_parts_are_those_of_their_tensor(name, pack, config, tmp_path):
    folder = build(name, tmp_path / "plain")
    decoded = coded(folder, tmp_path / "coded", pack, config)
    twin = plain_model(dense_twin(folder, tmp_path / "twin", decoded))
    with torch.no_grad():
        right = twin(input_ids=torch.tensor([TOKENS])).logits[0].numpy()
    for form, most in (("fp32", 1e-4), ("auto", 0.3)):
        step = LlamaStep(tmp_path / "coded", form, 2)
        found = step.forward(rows_of([(TOKENS, 0, list(range(8)))]), pool_of(step))
        errors = np.sqrt(((found - right) ** 2).mean(-1)) / right.std()
        assert np.median(errors) < most
        assert ("q4_1" in step.weights.forms) == (form == "auto")
        step.close()
