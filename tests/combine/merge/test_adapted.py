"""A merge of MODEL+ADAPTER computes what the module does with scale * B A added where peft adds it.

The oracle is transformers' module: its own classes say which of its weights lie as [in, out].
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedModel,
)
from transformers.pytorch_utils import Conv1D

from naive import plain_losses, tokens_of
from products import few
from treadle.combine.merge import merge
from treadle.core.errors import CheckpointError
from treadle.model import tiny
from treadle.runtime import LLM, SamplingParams

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


FORMS = {
    "gpt2": ["transformer.", ""],
    "gemma3": ["model.language_model.", "language_model.model.", "model."],
    "llava": ["model.language_model.", "language_model.model.", "model."],
    "smolvlm": ["model.text_model.", "text_model.model.", "model."],
}
"""What stands before the layers in the names of an adapter, by what was loaded to train it."""
WAYS = [
    (model_type, is_original, prefix)
    for model_type, prefixes in FORMS.items()
    for is_original in (True, False)
    for prefix in prefixes
]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, bool], Path]:
    made: dict[tuple[str, bool], Path] = {}

    def build(model_type: str, is_original: bool) -> Path:
        """Return a folder with names as published, or as in the module."""
        key = model_type, is_original
        if key not in made:
            folder = tmp_path_factory.mktemp("base") / model_type
            if model_type != "gpt2":
                made[key] = tiny.build_wrapper(model_type, folder, is_original=is_original)
            else:
                made[key] = tiny.build(model_type, folder)
                if is_original:  # as openai-community/gpt2
                    file = folder / "model.safetensors"
                    tensors = load_file(file)
                    names = {name: name.removeprefix("transformer.") for name in tensors}
                    save_file({names[n]: t for n, t in tensors.items()}, file, {"format": "pt"})
        return made[key]

    return build


def loaded(folder: Path, model_type: str) -> PreTrainedModel:
    kind = AutoModelForCausalLM if model_type == "gpt2" else AutoModelForImageTextToText
    module: PreTrainedModel = kind.from_pretrained(folder, dtype=torch.float32).eval()
    return module


def called(folder: Path, before: str, after: str) -> None:
    """Call what an adapter changes otherwise."""
    file = folder / "adapter_model.safetensors"
    start = "base_model.model."
    tensors = {n.replace(start + before, start + after): t for n, t in load_file(file).items()}
    save_file(tensors, file)


@pytest.mark.filterwarnings("ignore::treadle.native.loader.SlowPathWarning")
@pytest.mark.parametrize(
    "way",
    few(
        WAYS,
        ("gpt2", True, "transformer."),
        ("gpt2", False, ""),
        ("gemma3", True, "model.language_model."),
        ("gemma3", False, "model."),
        ("llava", False, "language_model.model."),
    ),
    ids=str,
)
def test_an_adapter_applies_under_every_name_of_its_model(
    way: tuple[str, bool, str], bases: Callable[[str, bool], Path], tmp_path: Path
) -> None:
    model_type, is_original, prefix = way
    base = bases(model_type, is_original)
    module = loaded(base, model_type)
    role = "h.1.attn.c_proj" if model_type == "gpt2" else "layers.1.mlp.down_proj"
    own = FORMS[model_type][0]
    adapter = lora(tmp_path / "lora", module, [own + role])
    called(adapter, own, prefix)
    merge([f"{base}+{adapter}"], tmp_path / "out", "passthrough")
    merged = loaded(tmp_path / "out", model_type).state_dict()
    for name, value in module.state_dict().items():
        torch.testing.assert_close(merged[name], value, rtol=1e-5, atol=1e-5)
    tokens = tokens_of(1, 12)
    llm = LLM(base, weights="fp32", kv_dtype="fp32", adapters={"lora": adapter})
    params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
    (answer,) = llm.generate([tokens[0].tolist()], params, adapter="lora")
    rest = tokens[0, 1:].tolist()
    found = [place[token] for place, token in zip(answer.prompt_logprobs[1:], rest, strict=True)]
    np.testing.assert_allclose(found, -plain_losses(module, tokens)[0].numpy(), atol=1e-4)


def test_what_else_a_wrapper_has_is_changed_too(
    bases: Callable[[str, bool], Path], tmp_path: Path
) -> None:
    """A target such as q_proj is found in the eyes, too: merged there, refused beside the text."""
    base = bases("gemma3", True)
    module = loaded(base, "gemma3")
    targets = [n for n, _ in module.named_modules() if n.endswith("layers.0.self_attn.q_proj")]
    adapter = lora(tmp_path / "lora", module, targets)
    assert len(targets) == 2
    merge([f"{base}+{adapter}"], tmp_path / "out", "passthrough")
    merged = loaded(tmp_path / "out", "gemma3").state_dict()
    for name, value in module.state_dict().items():
        torch.testing.assert_close(merged[name], value, rtol=1e-5, atol=1e-5)
    with pytest.raises(CheckpointError, match=r"vision_tower.* If this is it, merge the adapter"):
        LLM(base, weights="fp32", kv_dtype="fp32", adapters={"lora": adapter})
