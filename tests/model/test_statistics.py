"""Statistics of inputs and gradients against hooks and autograd on transformers' own model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from naive import all_matrices, plain_model, tokens_of
from products import each_kind
from treadle.core.checkpoint import CheckpointReader
from treadle.core.errors import CheckpointError
from treadle.model import facts, layers, tiny
from treadle.model.layers import LayeredModel
from treadle.model.statistics import (
    BlockStatistics,
    InputStatistics,
    collect_block,
    collect_gradients,
    load_statistics,
    save_statistics,
)

MODELS = sorted(facts.ARCHITECTURES)


def collected(folder: Path, tokens: torch.Tensor, needs_gram: bool = True) -> list[BlockStatistics]:
    found = []
    with CheckpointReader(folder) as reader:
        model = LayeredModel(reader)
        hidden = model.embed(tokens)
        for layer in range(model.num_layers):
            with model.block(layer) as block:
                found.append(collect_block(model, block, layer, hidden, needs_gram, and_run=True))
    return found


def naive_inputs(folder: Path, tokens: torch.Tensor) -> dict[tuple[int, str], torch.Tensor]:
    """Every unique input's rows, seen by hooks on the modules; experts replayed one by one."""
    model = plain_model(folder)
    found: dict[tuple[int, str], list[torch.Tensor]] = {}
    stem = facts.facts_of(model.config.to_dict()).blocks

    def see(key: tuple[int, str], values: torch.Tensor) -> None:
        found.setdefault(key, []).append(values.reshape(-1, values.shape[-1]).double())

    for matrix in all_matrices(folder):
        block = model.get_submodule(stem.format(layer=matrix.layer)[:-1])
        home = block.get_submodule(matrix.parameter.rpartition(".")[0])
        if matrix.expert is not None:
            if matrix.expert == 0 and matrix.role == "gate":
                home.register_forward_pre_hook(_experts(see, matrix.layer))
        elif matrix.role in ("q", "qkv", "o", "gate", "fc", "down") and matrix.expert is None:
            key = (matrix.layer, matrix.input)
            home.register_forward_pre_hook(lambda _, args, key=key: see(key, args[0]))
    for row in tokens:
        with torch.no_grad():
            model(input_ids=row[None])
    return {key: torch.cat(values) for key, values in found.items()}


def _experts(see, layer: int):
    def hook(module: nn.Module, args: tuple) -> None:
        hidden, chosen, _ = args
        for token, experts in enumerate(chosen.tolist()):
            for expert in experts:
                x = hidden[token]
                see((layer, f"expert_mlp_in.{expert}"), x)
                gate, up = functional.linear(x, module.gate_up_proj[expert]).chunk(2)
                see((layer, f"expert_down_in.{expert}"), module.act_fn(gate) * up)

    return hook


@pytest.mark.parametrize("model_type", each_kind(MODELS))
def test_inputs_equal_hooks_on_transformers(
    model_type: str, tiny_model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "_CHUNK_TOKENS", 70)  # 5 rows in chunks of 2, 2 and 1
    folder, tokens = tiny_model(model_type), tokens_of(5, 30)
    expected = naive_inputs(folder, tokens)
    found = {
        (layer, name): entry
        for layer, block in enumerate(collected(folder, tokens))
        for name, entry in block.items()
    }
    for key, entry in found.items():
        if key not in expected:
            assert entry.num_tokens == 0, f"{key} was reached by no hook"
            continue
        values = expected[key]
        assert entry.num_tokens == len(values), key
        scale = float(values.square().sum())
        torch.testing.assert_close(
            entry.sum_squares.double(), values.square().sum(dim=0), rtol=1e-4, atol=1e-6 * scale
        )
        torch.testing.assert_close(
            entry.gram.double(), values.T @ values, rtol=1e-4, atol=1e-6 * scale
        )
        assert torch.equal(entry.gram, entry.gram.T)
    assert set(expected) <= set(found)
    assert {name for _, name in found} >= {"attn_in", "o_in"}


def test_statistics_without_running_stop_before_the_last_product(llama: Path) -> None:
    tokens = tokens_of(3, 20)
    with CheckpointReader(llama) as reader:
        model = LayeredModel(reader)
        hidden = model.embed(tokens)
        before = hidden.clone()
        with model.block(0) as block:
            found = collect_block(model, block, 0, hidden, False, and_run=False)
            assert torch.equal(hidden, before)
            again = collect_block(model, block, 0, hidden, False, and_run=True)
            assert not torch.equal(hidden, before)
    for name, entry in found.items():
        assert entry.num_tokens == 60
        assert torch.equal(entry.sum_squares, again[name].sum_squares)


def test_the_gram_matrix_is_blockwise_equal_to_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    from treadle.model import statistics

    monkeypatch.setattr(statistics, "_GRAM_BLOCK", 3)
    values = torch.randn(50, 10)
    known = InputStatistics(10, True)
    known.add(values[:20])
    known.add(values[20:])
    torch.testing.assert_close(known.gram, values.T @ values)
    assert torch.equal(known.gram, known.gram.T)


def test_sums_accumulate_in_float64() -> None:
    """One loud token, then many quiet ones that a float32 sum of the same size would lose."""
    known = InputStatistics(1, False)
    known.add(torch.full((1, 1), 4096.0))
    for _ in range(64):
        known.add(torch.full((1, 1), 0.9))
    assert float(known._sum_squares) == pytest.approx(4096.0**2 + 64 * 0.81, rel=1e-9)


def test_an_expert_that_was_never_chosen_counts_as_white_noise(tmp_path: Path) -> None:
    folder = tiny.build("qwen3_moe", tmp_path, num_experts=16, num_experts_per_tok=1)
    found = collected(folder, tokens_of(1, 6))[0]
    idle = [f"expert_mlp_in.{e}" for e in range(16) if found[f"expert_mlp_in.{e}"].num_tokens == 0]
    assert len(idle) >= 10
    entry = found[idle[0]]
    assert torch.equal(entry.sum_squares, torch.ones(64))
    assert torch.equal(entry.gram, torch.eye(64))
    total = sum(found[f"expert_mlp_in.{e}"].num_tokens for e in range(16))
    assert total == 6


def test_a_saved_block_comes_back_equal(tiny_model, tmp_path: Path) -> None:
    for needs_gram in (True, False):
        found = collected(tiny_model("qwen3_moe"), tokens_of(2, 8), needs_gram)[1]
        save_statistics(found, tmp_path / "deep" / "block.safetensors")
        back = load_statistics(tmp_path / "deep" / "block.safetensors")
        assert [p.name for p in (tmp_path / "deep").iterdir()] == ["block.safetensors"]
        assert back.keys() == found.keys()
        for name, entry in found.items():
            assert back[name].num_tokens == entry.num_tokens
            assert torch.equal(back[name].sum_squares, entry.sum_squares)
            if needs_gram:
                assert torch.equal(back[name].gram, entry.gram)
                assert torch.equal(back[name].inverse_cholesky(0.01), entry.inverse_cholesky(0.01))


def test_the_inverse_cholesky_factor() -> None:
    values = torch.randn(40, 12, generator=torch.Generator().manual_seed(0))
    values[:, 3] = 0.0
    known = InputStatistics(12, True)
    known.add(values)
    for damp in (0.01, 0.5):
        hessian = (values.T @ values).double()
        hessian[3, 3] = 1.0
        hessian += damp * hessian.diagonal().mean() * torch.eye(12, dtype=torch.float64)
        upper = known.inverse_cholesky(damp)
        assert torch.equal(upper, upper.triu())
        torch.testing.assert_close(
            (upper.T @ upper).double(), torch.linalg.inv(hessian), rtol=1e-3, atol=1e-6
        )


def test_a_hessian_that_is_not_positive_definite() -> None:
    known = InputStatistics(2, True)
    known.add(torch.full((4, 2), float("nan")))
    with pytest.raises(CheckpointError) as caught:
        known.inverse_cholesky(0.01)
    assert "an input of 2 channels is not positive definite with damping 0.01" in str(caught.value)
    assert "raise the update's damp_fraction or calibrate on more tokens" in str(caught.value)


@pytest.mark.parametrize("model_type", each_kind(MODELS))
def test_gradients_equal_autograd(model_type: str, tiny_model) -> None:
    folder, tokens = tiny_model(model_type), tokens_of(3, 12)
    found = collect_gradients(folder, tokens)
    model = plain_model(folder)
    stem = facts.facts_of(model.config.to_dict()).blocks
    sums: dict[str, np.ndarray] = {}
    for row in tokens:
        model.zero_grad()
        logits = model(input_ids=row[None]).logits[0, :-1]
        functional.cross_entropy(logits, row[1:]).backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                squares = parameter.grad.double().numpy() ** 2
                sums[name] = sums.get(name, 0.0) + squares
    matrices = all_matrices(folder)
    assert set(found) == {matrix.name for matrix in matrices}
    for matrix in matrices:
        name = stem.format(layer=matrix.layer) + matrix.parameter
        whole = np.sqrt(sums[name])
        whole = whole[matrix.expert] if matrix.expert is not None else whole
        whole = whole.T if matrix.transposed else whole
        expected = whole[matrix.parameter_rows]
        np.testing.assert_allclose(
            found[matrix.name].numpy(), expected, rtol=1e-3, atol=1e-5 * whole.max()
        )
