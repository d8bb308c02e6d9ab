"""Architectures of which treadle has no facts run as transformers loads them."""

import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM, Olmo2Config

from treadle.core.errors import CheckpointError, UnsupportedModelError
from treadle.model import tiny
from treadle.runtime import LLM, SamplingParams

from .engines import greedy_ties

pytestmark = pytest.mark.filterwarnings("ignore::treadle.native.SlowPathWarning")


def foreign(folder, **changes):
    """Write a model of an architecture that treadle has no facts of."""
    config = Olmo2Config(
        **{"vocab_size": tiny.VOCAB_SIZE, "hidden_size": 32, "intermediate_size": 64},
        **{"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
        **{"max_position_embeddings": 128, "pad_token_id": None, **changes},
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(folder)
    tiny.tokenizer(folder)
    return model


def test_an_architecture_without_facts_runs_through_transformers(tmp_path):
    model, prompt = foreign(tmp_path), [1, 5, 9, 30]
    llm = LLM(tmp_path, cache_bytes=2**20)
    params = SamplingParams(max_tokens=8, temperature=0, ignore_eos=True)
    (out,) = llm.generate([prompt], params)
    greedy_ties(model, prompt, out.outputs[0].token_ids)


def test_a_tensor_that_it_lacks_is_named(tmp_path):
    foreign(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"missing: model.layers.1.mlp.up_proj.weight"):
        LLM(tmp_path, cache_bytes=2**20)


def test_what_transformers_does_not_know_is_refused(tmp_path):
    foreign(tmp_path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"olmo2"', '"no_such_model"'))
    with pytest.raises(UnsupportedModelError, match="cannot load a causal language model"):
        LLM(tmp_path, cache_bytes=2**20)
