"""Attention over many blocks of slots: against transformers, and bit by bit against itself."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from naive import plain_model, tokens_of
from runtime.flat import EXECUTORS, executor_of, pool_of, rows_of
from treadle.model import tiny
from treadle.native.loader import library
from treadle.runtime.native_step.llama import LlamaStep

pytestmark = pytest.mark.skipif(library("step") is None, reason="needs a C compiler")

LENGTH = 301
"""More than two blocks, and no multiple of anything."""
TYPES = ["fp32", "fp16", "int8", "int4"]


def texts(count: int = 1, seed: int = 0) -> list[list[int]]:
    return tokens_of(count, LENGTH, seed=seed).tolist()


def table_of(page_size: int, number: int = 0) -> list[int]:
    """Pages of a text in no order."""
    count = -(-LENGTH // page_size)
    return [number * count + (7 * page) % count for page in range(count)]


def computed(
    step: LlamaStep, tokens: Sequence[int], page_size: int, kv: str, chunks: Sequence[int]
) -> np.ndarray:
    pool, table, first, parts = pool_of(step, kv, page_size), table_of(page_size), 0, []
    for size in chunks:
        own = tokens[first : first + size]
        parts.append(step.forward(rows_of([(own, first, table)], page_size), pool))
        first += size
    return np.concatenate(parts)


@pytest.mark.parametrize("page_size", [16, 3, 32])
@pytest.mark.parametrize(
    ("model_type", "overrides"),
    [
        ("llama", {}),
        (
            "llama",
            {"hidden_size": 70, "num_attention_heads": 7, "num_key_value_heads": 1, "head_dim": 32},
        ),
        (
            "llama",
            {"hidden_size": 80, "num_attention_heads": 5, "num_key_value_heads": 5, "head_dim": 70},
        ),
        ("mistral", {"sliding_window": 40}),
        ("gemma2", {"sliding_window": 130}),
    ],
    ids=["llama", "seven", "five", "mistral", "gemma2"],
)
def test_long_contexts_equal_transformers(model_type, overrides, page_size, tiny_model):
    folder = tiny_model(model_type, max_position_embeddings=512, **overrides)
    step, tokens = LlamaStep(folder, "fp32", 1), texts()[0]
    with torch.no_grad():
        expected = plain_model(folder)(input_ids=torch.tensor([tokens])).logits[0].numpy()
    for chunks in ([LENGTH], [200, 100, 1]):
        found = computed(step, tokens, page_size, "fp32", chunks)
        np.testing.assert_allclose(found, expected, atol=1e-3)
    step.close()


@pytest.mark.parametrize("kv", TYPES)
def test_neither_chunks_nor_pages_change_a_bit(kv, tiny_model):
    folder = tiny_model("mistral", max_position_embeddings=512, sliding_window=150)
    step, tokens = LlamaStep(folder, "fp32", 2), texts()[0]
    whole = computed(step, tokens, 16, kv, [LENGTH])
    for page_size, chunks in ((16, [1] * 3 + [126, 1, 170, 1]), (3, [LENGTH]), (128, [50, 251])):
        assert np.array_equal(computed(step, tokens, page_size, kv, chunks), whole)
    step.close()


@pytest.mark.parametrize("kv", TYPES)
def test_long_neighbours_do_not_change_a_bit(kv, llama):
    step, many = LlamaStep(llama, "fp32", 2), texts(3)
    tables = [table_of(16, number)[: -(-LENGTH // 16)] for number in range(3)]
    size = 16 * 3 * len(tables[0])
    alone = [
        step.forward(rows_of([(own, 0, table)], 16), pool_of(step, kv, 16, size))
        for own, table in zip(many, tables, strict=True)
    ]
    parts = [(own, 0, table) for own, table in zip(many, tables, strict=True)]
    together = step.forward(rows_of(parts, 16), pool_of(step, kv, 16, size))
    assert np.array_equal(together, np.concatenate(alone))
    step.close()


@pytest.mark.parametrize(("kv", "most"), [("fp16", 2e-3), ("int8", 6e-2), ("int4", 0.6)])
def test_smaller_types_round_and_no_more(kv, most, llama):
    step, tokens = LlamaStep(llama, "fp32", 1), texts()[0]
    exact = computed(step, tokens, 16, "fp32", [LENGTH])
    found = computed(step, tokens, 16, kv, [LENGTH])
    error = np.abs(found - exact).max() / np.abs(exact).max()
    assert 0 < error < most
    step.close()


@pytest.mark.parametrize("model_type", ["llama", "gemma2"])
@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("scale", [1e4, 2e4, 3e4, 1e5])
def test_what_float16_does_not_hold_is_never_silently_wrong(model_type, executor, scale, tmp_path):
    """Keys are `scale` times as large and queries as much smaller, so that scores stay equal."""
    model = tiny.model(model_type, seed=1)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.k_proj.weight *= scale
            layer.self_attn.q_proj.weight /= scale
    model.save_pretrained(tmp_path)
    step, num_refused = executor_of(tmp_path, executor), 0
    for tokens in tokens_of(12, 6, seed=4).tolist():
        with torch.no_grad():
            expected = model(torch.tensor([tokens])).logits[0].numpy()
        found = step.forward(rows_of([(tokens, 0, [0])], 16), pool_of(step, "fp16", 16))
        is_refused = np.isnan(found).any()
        num_refused += is_refused
        assert is_refused or np.abs(found - expected).max() < 0.02
        exact = step.forward(rows_of([(tokens, 0, [0])], 16), pool_of(step, "fp32", 16))
        np.testing.assert_allclose(exact, expected, atol=1e-3)
    assert num_refused == {1e4: 0, 1e5: 12}.get(scale, num_refused)
