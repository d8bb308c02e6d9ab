"""A mixture of one model is that model, in every layout, as transformers loads it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from combine.merge.models import arrays_of
from naive import tokens_of
from treadle.combine.merge import merge_moe
from treadle.combine.merge.mixture.checkpoints import LAYOUTS
from treadle.core.errors import UnsupportedModelError
from treadle.model import tiny
from treadle.runtime import LLM, SamplingParams

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
SLIDING = {"use_sliding_window": True, "sliding_window": 16}
KINDS = [
    ("llama", {}),
    ("llama", {"head_dim": 24, "rope_parameters": LLAMA3, "tie_word_embeddings": False}),
    ("mistral", {}),
    ("qwen2", {"tie_word_embeddings": True}),
    ("qwen2", {**SLIDING, "max_window_layers": 1}),
    ("qwen3", {}),
    ("qwen3", {**SLIDING, "max_window_layers": 0, "attention_bias": True}),
]


def logits(folder: Path) -> torch.Tensor:
    """What transformers says to more tokens than a window has, where every tensor has its place."""
    module, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        return module.eval()(input_ids=tokens_of(1, 48)).logits


@pytest.mark.parametrize(("model_type", "config"), KINDS)
def test_one_model_is_itself_and_so_are_copies_of_it(model_type, config, tmp_path) -> None:
    model = tiny.build(model_type, tmp_path / "dense", **config)
    expected = logits(model)
    merge_moe([model], tmp_path / "one")
    torch.testing.assert_close(logits(tmp_path / "one"), expected, rtol=0, atol=1e-4)
    merge_moe([model] * 3, tmp_path / "three", experts_per_token=2)
    torch.testing.assert_close(logits(tmp_path / "three"), expected, rtol=0, atol=1e-4)
    assert json.loads((tmp_path / "three" / "config.json").read_text())["num_experts_per_tok"] == 2


@pytest.mark.parametrize("model_type", LAYOUTS)
def test_each_expert_is_a_model_and_the_rest_is_the_base(model_type, kin, tmp_path) -> None:
    """What only the MLPs of one model change is in its expert, and nowhere else."""
    base, experts = kin(model_type)
    merge_moe(experts, tmp_path / "out", base=base, router="random", experts_per_token=3)
    module = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    found = module.state_dict()
    for name, value in arrays_of(base).items():
        if ".mlp." not in name:
            assert np.array_equal(found[name].numpy(), value), name
    for place, folder in enumerate(experts):
        theirs = arrays_of(folder)
        for layer in (0, 1):
            mlp = f"model.layers.{layer}.mlp."
            both = np.concatenate([theirs[f"{mlp}{n}_proj.weight"] for n in ("gate", "up")])
            assert np.array_equal(found[f"{mlp}experts.gate_up_proj"][place].numpy(), both)
            down = theirs[f"{mlp}down_proj.weight"]
            assert np.array_equal(found[f"{mlp}experts.down_proj"][place].numpy(), down)


def test_without_a_base_the_rest_is_the_mean(kin, tmp_path) -> None:
    experts = kin("llama").experts
    merge_moe(experts, tmp_path / "out", router="random")
    found, models = arrays_of(tmp_path / "out"), [arrays_of(one) for one in experts]
    for name in models[0]:
        if ".mlp." not in name:
            mean = np.mean([one[name] for one in models], axis=0, dtype=np.float64)
            np.testing.assert_allclose(found[name], mean, rtol=1e-5, atol=1e-6)


def test_the_shared_expert_adds_nothing_and_can_learn(kin, tmp_path) -> None:
    merge_moe(kin("qwen2").experts, tmp_path / "out", router="random")
    shared = {n: v for n, v in arrays_of(tmp_path / "out").items() if ".shared_expert" in n}
    assert len(shared) == 8
    for name, value in shared.items():
        assert bool(value.any()) == ("gate_proj" in name or "up_proj" in name), name


def test_the_runtime_answers_as_transformers_does(kin, tmp_path) -> None:
    base, experts = kin("llama")
    merge_moe(experts, tmp_path / "out", base=base)
    model = LLM(tmp_path / "out")
    (answer,) = model.generate("def main", SamplingParams(max_tokens=4, temperature=0.0))
    module = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    asked = torch.tensor([answer.prompt_token_ids])
    expected = module.generate(asked, max_new_tokens=4, do_sample=False, eos_token_id=None)
    assert answer.outputs[0].token_ids == expected[0, asked.shape[1] :].tolist()


@pytest.mark.parametrize(
    ("model_type", "config", "says"),
    [
        ("gpt2", {}, "model_type 'gpt2'.*one of these types: llama, mistral, qwen2, qwen3"),
        ("llama", {"attention_bias": True}, "attention_bias: True.*MixtralForCausalLM cannot"),
        ("llama", {"mlp_bias": True}, "mlp_bias: True"),
        ("qwen3", {**SLIDING, "max_window_layers": 1}, "full_attention and sliding_attention"),
    ],
)
def test_what_no_mixture_can_say_is_refused(model_type, config, says, tmp_path) -> None:
    model = tiny.build(model_type, tmp_path / "dense", **config)
    with pytest.raises(UnsupportedModelError, match=says):
        merge_moe([model, model], tmp_path / "out")
    assert not (tmp_path / "out").exists()
