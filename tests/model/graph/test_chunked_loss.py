import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from treadle.core.errors import UnsupportedModelError
from treadle.model import tiny
from treadle.model.graph.capture import capture_model, capture_step
from treadle.model.graph.causal_lm import chunked, whole
from treadle.model.graph.chunked_loss import chunked_cross_entropy

from .plans import peak_bytes


@given(
    tokens=st.integers(1, 9),
    dim=st.integers(1, 5),
    vocab=st.integers(1, 7),
    chunks=st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_loss_and_gradients_are_those_of_the_whole_logits(tokens, dim, vocab, chunks, seed):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, dim, generator=generator, dtype=torch.float64).float()
    weight = torch.randn(vocab, dim, generator=generator)
    labels = torch.randint(0, vocab, (tokens,), generator=generator)
    found = []
    for compute in (
        lambda h, w: 3 * chunked_cross_entropy(h, w, labels, chunks),
        lambda h, w: 3 * nn.functional.cross_entropy(h @ w.t(), labels),
    ):
        own = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        loss = compute(*own)
        found.append((loss, *torch.autograd.grad(loss, own)))
    for ours, wanted in zip(*found, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "opt"])
def test_model_has_the_same_loss(model_type):
    model = tiny.model(model_type)
    data = {"input_ids": torch.randint(0, 320, (2, 24))}
    torch.testing.assert_close(chunked(5)(model, data), whole(model, data))


def test_logits_are_never_whole():
    config = tiny.model("gpt2", vocab_size=5000).config
    plain = capture_model(config, batch=2, seq=64).graph
    cut = capture_model(config, batch=2, seq=64, chunked_loss=8).graph
    logits_bytes = 2 * 64 * 5000 * 4
    assert max(value.num_bytes for value in plain.values) >= logits_bytes
    temporaries = [value.num_bytes for value in cut.values if value.kind == "temporary"]
    assert max(temporaries) == 64 * 5000 * 4  # the head's gradient
    ratio = peak_bytes(cut, range(len(cut.operators))) / peak_bytes(
        plain, range(len(plain.operators))
    )
    assert ratio < 0.6


def test_chunks_cost_no_matrix_product_more():
    config = tiny.model("llama").config
    flops = [
        sum(
            operator.flops
            for operator in capture_model(
                config, batch=2, seq=17, chunked_loss=chunks
            ).graph.operators
            if "mm" in operator.op
        )
        for chunks in (1, 8)
    ]
    assert flops[0] == flops[1]


def test_models_that_it_does_not_follow_are_refused():
    with pytest.raises(UnsupportedModelError, match="Linear is no causal language model"):
        capture_step(lambda: nn.Linear(2, 2), inputs={}, chunked_loss=2)
    config = tiny.model("gemma2").config
    with pytest.raises(UnsupportedModelError, match="logits by final_logit_softcapping"):
        capture_model(config, batch=1, seq=8, chunked_loss=2)
