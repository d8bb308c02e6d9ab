"""Roles of tensors: for every architecture, nothing is forgotten and nothing is read twice."""

import pytest
import torch

from naive import all_matrices, config_of, weights_of
from treadle.core.checkpoint import CheckpointReader
from treadle.core.errors import UnsupportedModelError
from treadle.model import facts, tiny

MODELS = sorted(facts.ARCHITECTURES)
# Matrices of a block that are never pruned: the routers.
ROUTERS = ("mlp.gate.weight", "block_sparse_moe.gate.weight", "shared_expert_gate.weight")


def test_every_architecture_has_a_tiny_model() -> None:
    assert set(tiny.CONFIGS) == set(facts.ARCHITECTURES)


@pytest.mark.parametrize("model_type", MODELS)
def test_linears_find_every_matrix_of_the_blocks_once(model_type: str, tiny_model) -> None:
    folder = tiny_model(model_type)
    stem = facts.facts_of(config_of(folder)).blocks.split("{layer}")[0]
    with CheckpointReader(folder) as reader:
        expected = {
            name: info.num_elements
            for name, info in reader.tensors.items()
            if name.startswith(stem) and len(info.shape) == 2 and not name.endswith(ROUTERS)
        }
    covered: dict[str, int] = dict.fromkeys(expected, 0)
    weights = weights_of(folder)
    for matrix in all_matrices(folder):
        covered[matrix.tensor] += weights[matrix.name].numel()
    assert covered == expected
    assert len(weights) == len(all_matrices(folder)), "two matrices share a name"


@pytest.mark.parametrize("model_type", MODELS)
def test_readers_of_one_input_agree_on_its_width(model_type: str, tiny_model) -> None:
    folder = tiny_model(model_type)
    weights = weights_of(folder)
    widths: dict[tuple[int, str], set[int]] = {}
    readers: dict[tuple[int, str], list[str]] = {}
    for matrix in all_matrices(folder):
        key = (matrix.layer, matrix.input)
        widths.setdefault(key, set()).add(weights[matrix.name].shape[1])
        readers.setdefault(key, []).append(matrix.role)
    assert all(len(found) == 1 for found in widths.values())
    first = readers[(0, "attn_in")]
    assert first == (["qkv"] if model_type == "gpt_neox" else ["q", "k", "v"])
    assert readers[(0, "o_in")] == ["o"]
    for (_, name), roles in readers.items():
        if "mlp_in" in name:
            assert roles in (["gate", "up"], ["fc"])
        if "down_in" in name:
            assert roles == ["down"]


@pytest.mark.parametrize("model_type", MODELS)
def test_matrices_come_in_running_order(model_type: str, tiny_model) -> None:
    rank = {"attn_in": 0, "o_in": 1, "mlp_in": 2, "down_in": 3}
    for layer in range(2):
        seen = [
            rank[matrix.input]
            for matrix in all_matrices(tiny_model(model_type))
            if matrix.layer == layer and matrix.input in rank
        ]
        assert seen == sorted(seen)


@pytest.mark.parametrize(
    ("model_type", "part", "rows"),
    [
        ("phi3", "self_attn.qkv_proj.weight[q]", (0, 64)),
        ("phi3", "self_attn.qkv_proj.weight[k]", (64, 96)),
        ("phi3", "self_attn.qkv_proj.weight[v]", (96, 128)),
        ("phi3", "mlp.gate_up_proj.weight[gate]", (0, 96)),
        ("phi3", "mlp.gate_up_proj.weight[up]", (96, 192)),
        ("gpt2", "attn.c_attn.weight[k]", (64, 128)),
    ],
)
def test_parts_of_fused_matrices(
    model_type: str, part: str, rows: tuple[int, int], tiny_model
) -> None:
    (found,) = (
        matrix
        for matrix in all_matrices(tiny_model(model_type))
        if matrix.layer == 1 and matrix.name.endswith(part)
    )
    assert (found.rows.start, found.rows.stop) == rows


def test_the_parts_of_phi3_compute_what_its_module_splits(tiny_model) -> None:
    """The slices are the queries, keys and values of the module, not just any thirds."""
    from naive import plain_model

    folder = tiny_model("phi3")
    module = plain_model(folder).model.layers[0].mlp
    weights = weights_of(folder)
    x = torch.randn(5, 64)
    gate = x @ weights["model.layers.0.mlp.gate_up_proj.weight[gate]"].T
    up = x @ weights["model.layers.0.mlp.gate_up_proj.weight[up]"].T
    down = weights["model.layers.0.mlp.down_proj.weight"]
    expected = (torch.nn.functional.silu(gate) * up) @ down.T
    torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-5)


def test_a_mixture_with_dense_blocks(tmp_path) -> None:
    folder = tiny.build("qwen2_moe", tmp_path, mlp_only_layers=[0])
    by_layer = [[m for m in all_matrices(folder) if m.layer == layer] for layer in range(2)]
    assert [m.role for m in by_layer[0]] == ["q", "k", "v", "o", "gate", "up", "down"]
    assert {m.expert for m in by_layer[1]} == {None, 0, 1, 2, 3}
    assert {m.input for m in by_layer[1]} >= {"shared_mlp_in", "shared_down_in"}


def test_an_unknown_architecture() -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        facts.facts_of({"model_type": "lama"})
    message = str(caught.value)
    assert "model_type 'lama', for which treadle has no facts. Did you mean 'llama'?" in message
    assert "write its line in ARCHITECTURES of treadle/model/facts/architectures.py" in message
    with pytest.raises(UnsupportedModelError, match="model_type ''"):
        facts.facts_of({})


def test_a_config_without_a_needed_key() -> None:
    with pytest.raises(UnsupportedModelError, match="none of the keys num_hidden_layers, n_layer"):
        facts.num_layers({"model_type": "llama"})


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4}, (4, 4, 16)),
        (
            {
                "model_type": "qwen3",
                "hidden_size": 64,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "head_dim": 32,
            },
            (4, 2, 32),
        ),
        ({"model_type": "gpt2", "n_embd": 64, "n_head": 4}, (4, 4, 16)),
        (
            {
                "model_type": "llama",
                "hidden_size": 64,
                "num_attention_heads": 4,
                "num_key_value_heads": None,
                "head_dim": None,
            },
            (4, 4, 16),
        ),
    ],
)
def test_heads(config: dict, expected: tuple[int, int, int]) -> None:
    assert (facts.num_heads(config), facts.num_kv_heads(config), facts.head_dim(config)) == expected
