"""Documents in one row: each is what it is alone, in values and in gradients."""

import pytest
import torch
from torch import nn

from products import each_kind
from treadle.core.seed import torch_stream
from treadle.model import tiny
from treadle.model.load import full
from treadle.model.packed import PackedModel

LENGTHS = [40, 1, 30, 19]
TOKENS = torch.randint(320, (sum(LENGTHS),), generator=torch_stream(0, "tokens"))
WANTED = torch.tensor([0, 5, 39, 40, 41, 70, 71, 89])


def alone(model):
    """Logits of each document by itself, at the wanted places; longer than a window of 24."""
    found, start = [], 0
    for length in LENGTHS:
        found.append(model(input_ids=TOKENS[None, start : start + length]).logits[0])
        start += length
    return torch.cat(found)[WANTED]


@pytest.mark.parametrize("model_type", each_kind(tiny.CONFIGS))
def test_no_token_sees_another_document(model_type, tiny_model):
    model = full(tiny_model(model_type)).double()
    for parameter in model.parameters():
        parameter.requires_grad_()
    expected = alone(model)
    expected.square().sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    packed = PackedModel(model)
    assert packed.is_packed
    with packed.active():
        found = packed.logits(TOKENS, LENGTHS, WANTED)
        found.square().sum().backward()
    near = 1e-5 if "gemma" in model_type else 1e-9  # Gemma's norms compute in float32 anyway
    assert torch.allclose(found, expected, atol=near)
    for name, gradient in gradients.items():
        assert torch.allclose(model.get_parameter(name).grad, gradient, atol=10 * near), name


def test_a_change_of_one_document_changes_no_other_bit(llama):
    packed = PackedModel(full(llama))
    other = TOKENS.clone()
    other[:40] = other[:40].flip(0)
    with packed.active(), torch.no_grad():
        one = packed.logits(TOKENS, LENGTHS, torch.arange(90))
        two = packed.logits(other, LENGTHS, torch.arange(90))
    assert torch.equal(one[40:], two[40:])
    assert not torch.equal(one[:40], two[:40])


class Leaky(nn.Module):
    """Lets every token see the one before it, whosever that is."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, hidden):
        found = self.inner(hidden)
        return found + torch.nn.functional.pad(found, (0, 0, 1, 0))[:, :-1]


def test_a_model_whose_documents_meet_gets_rows_of_their_own():
    model = tiny.model("llama")
    model.model.layers[0].mlp = Leaky(model.model.layers[0].mlp)
    packed = PackedModel(model)
    assert not packed.is_packed
    with packed.active(), torch.no_grad():
        assert torch.allclose(packed.logits(TOKENS, LENGTHS, WANTED), alone(model), atol=1e-5)


def test_fewer_bits_are_near_and_an_exact_block_has_all(llama):
    exact, quick = PackedModel(full(llama)), PackedModel(full(llama), "bfloat16")
    with torch.no_grad(), exact.active(), quick.active():
        expected = exact.logits(TOKENS, LENGTHS, WANTED)
        found = quick.logits(TOKENS, LENGTHS, WANTED)
        with quick.exactly():
            assert torch.equal(quick.logits(TOKENS, LENGTHS, WANTED), expected)
    assert found.dtype == torch.bfloat16
    assert 0 < float((found.float() - expected).abs().max()) < 0.1 * float(expected.abs().max())


def test_the_model_is_as_it_was_afterwards(llama):
    model = full(llama)
    packed = PackedModel(model)
    with packed.active(), packed.active():  # once more, inside
        assert model.config._attn_implementation.startswith("treadle_packed_")
    assert model.config._attn_implementation == "sdpa"
    with torch.no_grad():
        assert torch.allclose(alone(model), alone(full(llama)))
