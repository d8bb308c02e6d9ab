"""trained: the means of what enters an MLP where each expert has the least loss, apart."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from combine.merge.mixture.mlps import EXPERTS, SEEDS, WIDTHS, clusters, mlp, share_right
from combine.merge.models import arrays_of
from naive import plain_losses, plain_model
from treadle.combine.merge import merge_moe
from treadle.combine.merge.mixture.methods.random import RandomGate
from treadle.combine.merge.mixture.methods.trained import Trained
from treadle.core.errors import DataError
from treadle.model.load import load_tokenizer
from treadle.model.text import sampled_windows


def naive_rows(inputs, losses) -> np.ndarray:
    """Token by token, in loops."""
    experts = losses.shape[1]
    sums, totals = np.zeros((experts, inputs.shape[1])), [0.0] * experts
    for token, row in zip(inputs.astype(float), losses.astype(float), strict=True):
        best = min(range(experts), key=lambda e: row[e])
        others = [row[e] for e in range(experts) if e != best]
        gain = min(min(others) - row[best], 4.0) if others else 1.0
        sums[best] += gain * token
        totals[best] += gain
    rows = [total / count if count else total for total, count in zip(sums, totals, strict=True)]
    heard = [e for e in range(experts) if totals[e]]
    if len(heard) > 1:
        mean = sum(rows[e] for e in heard) / len(heard)
        rows = [row - mean if e in heard else row for e, row in enumerate(rows)]
    return np.stack([row / (np.linalg.norm(row) or 1.0) for row in rows])


@given(SEEDS, EXPERTS, WIDTHS, st.integers(1, 9))
def test_rows_are_means_of_the_tokens_won(seed, num_experts, hidden, tokens) -> None:
    draw = np.random.default_rng(seed)
    inputs = draw.standard_normal((tokens, hidden)).astype(np.float32)
    losses = draw.exponential(3.0, (tokens, num_experts)).astype(np.float32)
    found = Trained().gate(mlp(num_experts, hidden, inputs=inputs, losses=losses))
    np.testing.assert_allclose(found.rows, naive_rows(inputs, losses), rtol=1e-3, atol=1e-4)
    chosen = [int(np.argmax(found.rows.astype(float) @ token)) for token in inputs.astype(float)]
    right = np.mean(np.array(chosen) == np.argmin(losses, axis=1))
    assert found.agreement == pytest.approx(float(right))


def test_an_expert_that_is_never_best_gets_nothing() -> None:
    inputs, losses = np.eye(3, dtype=np.float32), np.array([[1.0, 2.0, 3.0]] * 3, np.float32)
    losses[2, 1] = 0.0
    rows = Trained().gate(mlp(3, 3, inputs=inputs, losses=losses)).rows
    assert not rows[2].any()
    assert rows[0] @ inputs[0] > 0 > rows[1] @ inputs[0]


def test_tokens_go_where_the_loss_was_least() -> None:
    _, points = clusters(5, 4, 16, 0.5)
    draw = np.random.default_rng(0)
    losses = draw.exponential(1.0, (4, 20, 4)) + 2.0 * (1 - np.eye(4)[:, None])
    shown = mlp(
        *(4, 16),
        inputs=points[:, :20].reshape(-1, 16),
        losses=losses.reshape(-1, 4).astype(np.float32),
    )
    right, by_chance = (
        share_right(router.gate(shown).rows, points[:, 20:]) for router in (Trained(), RandomGate())
    )
    assert right > 0.95 > 0.6 > by_chance


def test_losses_are_those_of_each_model_alone(kin, tmp_path) -> None:
    """The first layer's gate, from transformers' own losses and hooks."""
    base, experts = kin("qwen3")
    sizes = {"num_windows": 4, "window_tokens": 16}
    merge_moe(experts, tmp_path / "out", base=base, text=[__file__], **sizes)
    tokens = sampled_windows(__file__, load_tokenizer(base), 4, 16, 0).tokens
    losses = np.stack([plain_losses(plain_model(e), tokens).numpy().ravel() for e in experts], 1)
    entered, module = [], plain_model(base)
    module.model.layers[0].mlp.register_forward_pre_hook(
        lambda _, args: entered.append(args[0][:, :-1].detach().numpy())
    )
    module(input_ids=tokens)
    expected = naive_rows(entered[0].reshape(-1, 64), losses)
    found = arrays_of(tmp_path / "out")["model.layers.0.mlp.gate.weight"]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    settings = json.loads((tmp_path / "out" / "result.json").read_text())
    assert [one["role"] for one in settings["inputs"]].count("data") == 1


def test_a_text_that_is_too_short_is_refused(kin, tmp_path) -> None:
    (tmp_path / "text.txt").write_text("hello")
    with pytest.raises(DataError, match="too few for one window"):
        merge_moe(
            *(kin("llama").experts, tmp_path / "out"),
            router="trained",
            text=[str(tmp_path / "text.txt")],
        )
