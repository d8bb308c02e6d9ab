"""LoRA: what is written loads in peft and in the runtime, and both answer as the tuned model."""

import json

import pytest
import torch

from learn.tune.cases import QUESTIONS, written
from naive import plain_model
from treadle.combine.merge import merge
from treadle.core.errors import SettingsError
from treadle.learn.tune import tune
from treadle.learn.tune.methods.lora import LoRA
from treadle.runtime import LLM, SamplingParams

SHAPES = {
    "model.layers.0.mlp.up_proj.weight": (4, 2),
    "model.layers.0.mlp.down_proj.weight": (2, 4),
}


@pytest.fixture(scope="module")
def adapter(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora")
    data = written(folder / "rows.jsonl", QUESTIONS)
    settings = {"steps": 20, "rows": 6, "learning_rate": 2e-2}
    tune(tiny_model("llama"), folder / "adapter", "sft", data=data, learn="lora", **settings)
    return folder / "adapter"


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft, at transformers
def test_peft_and_the_runtime_load_it_and_merged_it_is_the_same(llama, adapter, tmp_path):
    from peft import PeftModel

    tokens = torch.arange(20)[None] + 40
    with torch.no_grad():
        base = plain_model(llama)(input_ids=tokens).logits
        ours = PeftModel.from_pretrained(plain_model(llama), adapter)(input_ids=tokens).logits
    assert float((ours - base).abs().max()) > 0.1
    merge([f"{llama}+{adapter}"], tmp_path / "merged", "passthrough")
    with torch.no_grad():
        merged = plain_model(tmp_path / "merged")(input_ids=tokens).logits
    assert float((merged - ours).abs().max()) < 1e-5 * float(ours.abs().max())
    llm = LLM(llama, adapters={"tuned": adapter}, kv_dtype="fp32")
    asked = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
    (answer,) = llm.generate([tokens[0].tolist()], asked, adapter="tuned")
    expected = ours[0].log_softmax(-1)[torch.arange(19), tokens[0, 1:]]
    found = torch.tensor(
        [p[t] for p, t in zip(answer.prompt_logprobs[1:], tokens[0, 1:].tolist(), strict=True)]
    )
    assert torch.allclose(found, expected, atol=1e-5)


def test_its_config_is_pefts_and_says_the_base(llama, adapter):
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert config["base_model_name_or_path"] == str(llama)
    assert config["target_modules"] == sorted(
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )
    assert json.loads((adapter / "treadle.json").read_text())["provenance"]["verb"] == "tune"


def test_names_are_those_the_pattern_is_found_in():
    assert LoRA().names(SHAPES) == list(SHAPES)
    assert LoRA(pattern="up").names(SHAPES) == ["model.layers.0.mlp.up_proj.weight"]
    with pytest.raises(SettingsError, match=r"'q_proj' is found in no name .* 'model.layers.0.mlp"):
        LoRA(pattern="q_proj").names(SHAPES)
    with pytest.raises(SettingsError, match="no regular expression"):
        LoRA(pattern="(").names(SHAPES)


def test_some_matrices_of_some_blocks_alone_get_factors(llama, tmp_path):
    data = written(tmp_path / "rows.jsonl", QUESTIONS)
    learn = {"method": "lora", "rank": 1, "pattern": r"layers\.1.*v_proj"}
    tune(llama, tmp_path / "one", "sft", data=data, steps=1, learn=learn)
    config = json.loads((tmp_path / "one" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["model.layers.1.self_attn.v_proj"]
    assert LLM(llama, adapters={"one": tmp_path / "one"})
