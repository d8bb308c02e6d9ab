"""A LoRA fit: only factors learn, the base keeps its bytes, and the runtime takes the outcome."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from naive import plain_model
from treadle.core.seed import torch_stream
from treadle.model.adapters import Adapter
from treadle.model.fit import FitSettings, fit, random_batches
from treadle.runtime import LLM, SamplingParams

TOKENS = torch.randint(0, 16, (200,), generator=torch_stream(0, "tokens")).repeat(5)
RANK, ALPHA = 4, 8
ROLES = ("q_proj", "v_proj", "down_proj")


class LoRALinear(nn.Module):
    """A linear map with a change of low rank beside it, of which B begins with zeros."""

    def __init__(self, base: nn.Linear, name: str) -> None:
        super().__init__()
        self.base = base
        draw = torch.randn(RANK, base.in_features, generator=torch_stream(0, name))
        self.lora_A = nn.Parameter(draw / base.in_features**0.5)
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, RANK))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + ALPHA / RANK * (x @ self.lora_A.T) @ self.lora_B.T


def with_lora(folder):
    model = plain_model(folder)
    for name, module in list(model.named_modules()):
        if name.endswith(ROLES):
            parent, _, role = name.rpartition(".")
            setattr(model.get_submodule(parent), role, LoRALinear(module, name))
    return model


def save(model, folder):
    tensors = {}
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            tensors[f"base_model.model.{name}.weight"] = parameter.detach().contiguous()
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": ROLES}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_an_adapter_learns_and_the_runtime_answers_with_it(llama, tmp_path, optimizer):
    model = with_lora(llama)
    base = {n: p.detach().clone() for n, p in model.named_parameters() if "lora_" not in n}
    settings = FitSettings(steps=30, learning_rate=1e-2, save_every=25)
    batches = random_batches(TOKENS, 4, 16, seed=1)
    options = {"optimizer": optimizer, "learn": "lora_", "identity": "TOKENS, next token"}

    def killed(step, losses):
        if step == 27:
            raise KeyboardInterrupt
        return batches(step, losses)

    with pytest.raises(KeyboardInterrupt):
        fit(with_lora(llama), killed, settings, tmp_path / "state", **options)
    size = (tmp_path / "state" / "fit.safetensors").stat().st_size
    assert size < 0.6 * (llama / "model.safetensors").stat().st_size
    done = fit(model, batches, settings, tmp_path / "state", **options)
    assert done.first_step == 25
    assert done.losses[-1] < done.losses[0] - 0.5
    for name, value in base.items():
        assert torch.equal(model.get_parameter(name).detach(), value)

    folder = save(model, tmp_path / "adapter")
    assert len(Adapter(folder).changes) == 2 * len(ROLES)
    tokens = TOKENS[:24].tolist()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([tokens])).logits[0]
    expected = logits.log_softmax(-1)[torch.arange(23), torch.tensor(tokens[1:])]
    llm = LLM(llama, adapters={"tuned": folder}, kv_dtype="fp32")
    asked = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
    found = {}
    for name in ("tuned", None):
        (answer,) = llm.generate([tokens], asked, adapter=name)
        found[name] = torch.tensor(
            [p[t] for p, t in zip(answer.prompt_logprobs[1:], tokens[1:], strict=True)]
        )
    assert float((found["tuned"] - expected).abs().max()) < 1e-5
    assert float((found[None] - expected).abs().max()) > 0.1
