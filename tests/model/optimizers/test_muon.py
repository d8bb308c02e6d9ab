"""Muon: against its definition, at its limits, and what it is for."""

import math

import pytest
import torch

from treadle.core.seed import torch_stream
from treadle.model import tiny
from treadle.model.fit import FitSettings, fit
from treadle.model.fit.learning import sorted_by_place
from treadle.model.optimizers.methods.muon import Muon

from . import training


def orthogonal(matrix, num_steps):
    """The Newton-Schulz iteration on the singular values themselves, in float64."""
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    values = values / values.norm()
    for _ in range(num_steps):
        values = 3.4445 * values - 4.775 * values**3 + 2.0315 * values**5
    return left @ torch.diag(values) @ right


def step_of(weight, gradients, muon, rate):
    """The paper's update, several times; the last one's momentum comes in by Nesterov."""
    weight, average = weight.double(), torch.zeros_like(weight).double()
    for gradient in gradients:
        average = muon.momentum * average + (1 - muon.momentum) * gradient.double()
        ahead = muon.momentum * average + (1 - muon.momentum) * gradient.double()
        update = orthogonal(ahead if muon.nesterov else average, muon.ns_steps)
        rows, columns = weight.shape
        scale = (
            0.2 * math.sqrt(max(rows, columns))
            if muon.scale == "match_rms_adamw"
            else math.sqrt(max(1, rows / columns))
        )
        weight = (1 - rate * muon.weight_decay) * weight - rate * scale * update
    return weight


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (32, 32), (1, 16), (16, 1)])
@pytest.mark.parametrize(
    "muon",
    [
        Muon(),
        Muon(nesterov=False, scale="original"),
        Muon(momentum=0.5, ns_steps=2, weight_decay=0.0),
    ],
    ids=["default", "original", "few steps"],
)
def test_reference_it_equals_its_definition_to_bfloat16(shape, muon):
    draw = torch_stream(0, f"{shape}")
    weight = torch.randn(shape, generator=draw)
    gradients = [torch.randn(shape, generator=draw) for _ in range(3)]
    parameter, rate = torch.nn.Parameter(weight.clone()), 0.05
    (built,) = muon.build([parameter], [])
    for gradient in gradients:
        parameter.grad = gradient.clone()
        for group in built.param_groups:
            group["lr"] = rate
        built.step()
    moved = parameter.detach().double() - weight.double()
    expected = step_of(weight, gradients, muon, rate) - weight.double()
    assert float((moved - expected).norm() / expected.norm()) < 0.03


@pytest.mark.parametrize("fraction", [1.0, 0.25])
def test_reference_all_else_learns_by_adamw(fraction):
    """Embeddings, norms and head of a whole model, in its first step."""
    muon = Muon(others_fraction=fraction, weight_decay=0.2)
    settings = FitSettings(steps=1, learning_rate=1e-2, clip_norm=0.0)
    found, begun = training.trained("phi3", settings, muon), tiny.model("phi3")
    gradient = training.gradients(begun, 0, 0.0)
    hidden, others = sorted_by_place(begun, dict(begun.named_parameters()))
    names = {id(p): name for name, p in begun.named_parameters()}
    rate = settings.rate(0) * fraction
    for parameter in others:
        name = names[id(parameter)]
        expected = parameter.detach().clone()
        training.adamw_step(expected, gradient[name], [0.0, 0.0], 0, rate, muon)
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=2e-6)
    for parameter in hidden:
        name = names[id(parameter)]
        expected = step_of(parameter.detach(), [gradient[name]], muon, settings.rate(0))
        moved = found[name].double() - parameter.detach().double()
        wanted = expected - parameter.detach().double()
        assert float((moved - wanted).norm() / wanted.norm()) < 0.06


def test_limits_a_model_without_hidden_matrices_or_with_nothing_else():
    for learn in ("norm", "embed", "proj"):
        found = fit(
            tiny.model("llama"), training.BATCHES, training.SETTINGS, optimizer="muon", learn=learn
        )
        assert len(found.losses) == 4


def test_limits_a_gradient_of_zero_moves_nothing():
    parameter = torch.nn.Parameter(torch.ones(4, 6))
    (built,) = Muon(weight_decay=0.0).build([parameter], [])
    parameter.grad = torch.zeros(4, 6)
    built.param_groups[0]["lr"] = 0.1
    built.step()
    assert torch.equal(parameter.detach(), torch.ones(4, 6))


def test_meaning_a_step_reaches_directions_that_the_gradient_hardly_has():
    """The gradient is fifty times larger in one direction than in another, and the step not."""
    left, right = (
        torch.linalg.qr(torch.randn(8, 8, generator=torch_stream(0, n)))[0] for n in "lr"
    )
    sizes = torch.tensor([1.0, 0.5, 0.3, 0.2, 0.1, 0.05, 0.03, 0.02])
    parameter = torch.nn.Parameter(torch.zeros(8, 8))
    (built,) = Muon(scale="original").build([parameter], [])
    parameter.grad = left @ torch.diag(sizes) @ right
    built.param_groups[0]["lr"] = 1.0
    built.step()
    moved = torch.linalg.svdvals(parameter.detach())
    assert float(moved.min()) > 0.4
    assert float(moved.max()) < 1.4
    assert float(sizes.max() / sizes.min()) > 10 * float(moved.max() / moved.min())


def test_meaning_its_step_is_about_as_large_as_adamws():
    """What "match_rms_adamw" promises: one learning rate for both."""
    settings = FitSettings(steps=1, learning_rate=1e-3)
    before = training.weights(tiny.model("llama"))
    sizes = {}
    for name in ("adamw", "muon"):
        found = training.trained("llama", settings, {"method": name, "weight_decay": 0.0})
        moved = [found[key] - before[key] for key in before if "proj" in key]
        sizes[name] = torch.cat([m.flatten() for m in moved]).square().mean().sqrt()
    # A root mean square of 0.2 where AdamW's first step, before averages cancel, has 1.
    assert 0.1 < float(sizes["muon"] / sizes["adamw"]) < 0.3
