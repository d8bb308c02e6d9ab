import pytest
import torch

from treadle.core.errors import UnsupportedModelError
from treadle.model import tiny
from treadle.model.fresh import fresh_model

SHAPE = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


def matrices(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in model.named_parameters() if p.dim() > 1}


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "qwen3_moe"])
def test_a_seed_says_all_weights_and_the_process_keeps_its_own(model_type: str) -> None:
    config = {"model_type": model_type, **SHAPE, **tiny.CONFIGS[model_type]}
    before = torch.random.get_rng_state()
    one, again, other = (matrices(fresh_model(config, seed)) for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    for name, values in one.items():
        assert torch.equal(values, again[name]), name
        assert not torch.equal(values, other[name]), name


def test_a_matrix_does_not_depend_on_how_many_others_there_are() -> None:
    config = {"model_type": "llama", **SHAPE}
    small = matrices(fresh_model(config, 0))
    large = matrices(fresh_model({**config, "num_hidden_layers": 4}, 0))
    for name, values in small.items():
        assert torch.equal(values, large[name]), name


def test_an_architecture_scales_what_it_scales() -> None:
    """GPT-2 draws the ends of its 2n branches narrower by √2n."""
    model = fresh_model({"model_type": "gpt2", **SHAPE, "num_hidden_layers": 8}, 0)
    for name, values in matrices(model).items():
        wanted = 0.02 / 4 if name.endswith("c_proj.weight") else 0.02
        assert float(values.std()) == pytest.approx(wanted, rel=0.1), name


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"model_type": "lama"},
        {"model_type": "vit"},
        {"model_type": "llama", "hidden_size": 30, "num_attention_heads": 7},
        {"model_type": "llama", "hidden_size": "x"},
    ],
)
def test_what_is_no_causal_model_is_refused(config: dict[str, str]) -> None:
    with pytest.raises(UnsupportedModelError, match="makes no model of this config"):
        fresh_model(config, 0)
