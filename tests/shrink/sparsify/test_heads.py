"""Heads while they learn are the heads that run, and as large as they may be."""

import pytest
import torch

from runtime.retained import drawn as drawn_heads
from shrink.sparsify.runs import drawn, layer_of
from treadle.runtime.transformers_step.noting import scores_of_rows
from treadle.shrink.sparsify import METHODS
from treadle.shrink.sparsify.base import HeadDesign
from treadle.shrink.sparsify.heads import (
    LayerSize,
    fresh_layer,
    mlp_width,
    read_inputs,
    retaining,
    scores_of,
)

DESIGNS = {
    "locret": METHODS.resolve("locret").design(),
    "kvzap": METHODS.resolve("kvzap").design(),
    "kvzap_mlp": METHODS.resolve({"method": "kvzap", "form": "mlp"}).design(),
    "gated": METHODS.resolve("gated").design(),
}
SMOLLM2 = [LayerSize(9, 3, 64, 576)] * 30
NUM_PARAMETERS = 134_515_008


@pytest.mark.parametrize("name", DESIGNS)
def test_what_learns_says_what_the_executor_says(name: str) -> None:
    design, size = DESIGNS[name], LayerSize(6, 2, 4, 12)
    own = fresh_layer(design, size, 5, 0, 3)
    own = {part: values + 0.1 * drawn(1, *values.shape) for part, values in own.items()}
    x = drawn(2, 7, size.num_inputs(design))
    found = scores_of(design, own, x)
    assert found.shape == (7, 2)
    torch.testing.assert_close(found, scores_of_rows(retaining(design, [own]), 0, x, 2))


@pytest.mark.parametrize("policy", ["locret", "kvzap", "gated"])
def test_heads_that_the_runtime_tests_with_are_of_these_kinds(policy: str) -> None:
    other, design = drawn_heads(policy, [(4, 2, 8)], 32), DESIGNS[policy]
    assert (other.kind, other.reads) == (design.kind, design.reads)


def test_the_width_of_locret_on_smollm2_is_128_and_costs_under_3_percent() -> None:
    design = DESIGNS["locret"]
    width = mlp_width(design, SMOLLM2, NUM_PARAMETERS)
    assert width == 128
    own = fresh_layer(design, SMOLLM2[0], width, 0, 0)
    numbers = 30 * sum(part.numel() for part in own.values())
    assert 0.025 < numbers / NUM_PARAMETERS < 0.03
    assert mlp_width(design, SMOLLM2, 10**10) == 192, "17 % of 960, in steps of 32"
    large = [LayerSize(64, 64, 128, 8192)]
    assert mlp_width(design, large, 10**12) == 1024


def test_limits_a_model_of_few_parameters_has_heads_of_width_1() -> None:
    assert mlp_width(DESIGNS["locret"], [LayerSize(1, 1, 2, 2)], 10) == 1


def test_inputs_are_queries_keys_and_values_side_by_side_or_what_their_matrices_read() -> None:
    layer = layer_of(5, 4, 2, 3)
    projections = read_inputs(DESIGNS["locret"], layer, 4)
    assert projections.shape == (4, (4 + 2 + 2) * 3)
    assert projections[2, 3].item() == pytest.approx(float(layer.queries[2, 1, 0]))
    assert projections[2, 4 * 3].item() == pytest.approx(float(layer.keys[2, 0, 0]))
    assert projections[2, 7 * 3 + 2].item() == pytest.approx(float(layer.values[2, 1, 2]))
    assert read_inputs(DESIGNS["kvzap"], layer, 4).tolist() == layer.hidden[:4].tolist()


def test_beginnings_differ_by_layer_and_seed_only() -> None:
    design: HeadDesign = DESIGNS["locret"]
    size = LayerSize(2, 1, 4, 8)
    first, again, layer, seed = (
        fresh_layer(design, size, 4, *which)["first"] for which in ((0, 0), (0, 0), (0, 1), (1, 0))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, layer)
    assert not torch.equal(first, seed)
