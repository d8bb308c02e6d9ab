"""AdamW: against its paper, at its limits, and what its decay means."""

import pytest
import torch

from treadle.core.errors import SettingsError
from treadle.model import tiny
from treadle.model.fit import FitSettings, fit
from treadle.model.optimizers import OPTIMIZERS
from treadle.model.optimizers.methods.adamw import AdamW

from . import training


# Without biases of keys, whose gradient is zero but for rounding, which AdamW would blow up.
@pytest.mark.parametrize("model_type", ["llama", "phi3"])
@pytest.mark.parametrize("optimizer", [AdamW(), AdamW(betas=(0.8, 0.9), weight_decay=0.5)])
def test_reference_it_equals_the_paper_written_out(model_type, optimizer):
    settings = training.SETTINGS
    expected = tiny.model(model_type)
    averages = {name: [0.0, 0.0] for name, _ in expected.named_parameters()}
    for step in range(settings.steps):
        found = training.gradients(expected, step, settings.clip_norm)
        with torch.no_grad():
            for name, parameter in expected.named_parameters():
                rate = settings.rate(step)
                training.adamw_step(parameter, found[name], averages[name], step, rate, optimizer)
    for name, value in training.trained(model_type, settings, optimizer).items():
        torch.testing.assert_close(
            value, expected.get_parameter(name).detach(), rtol=1e-4, atol=2e-6
        )


@pytest.mark.parametrize("learn", ["norm", "proj", r"layers\.0\.input_layernorm"])
def test_limits_only_vectors_or_only_matrices_learn(learn):
    found = fit(tiny.model("llama"), training.BATCHES, training.SETTINGS, learn=learn)
    assert len(found.losses) == 4


def test_limits_without_averages_a_step_is_the_sign_of_the_gradient():
    optimizer = AdamW(betas=(0.0, 0.0), weight_decay=0.0, epsilon=1e-30)
    settings = FitSettings(steps=1, learning_rate=1e-3, clip_norm=0.0)
    found = training.trained("llama", settings, optimizer)
    begun = tiny.model("llama")
    gradient = training.gradients(begun, 0, 0.0)
    for name, value in found.items():
        expected = begun.get_parameter(name).detach() - settings.rate(0) * gradient[name].sign()
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-7)


def test_meaning_matrices_without_a_gradient_shrink_and_vectors_do_not():
    parameters = [torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))]
    (built,) = AdamW(weight_decay=0.5).build(parameters[:1], parameters[1:])
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    for group in built.param_groups:
        group["lr"] = 0.1
    built.step()
    assert parameters[0].tolist() == [[pytest.approx(0.95)] * 2] * 2
    assert parameters[1].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("adam", "Unknown optimizer 'adam'. Did you mean 'adamw'"),
        ({"method": "adamw", "betas": (0.9, 1.0)}, "betas = 1.0 is refused"),
        ({"method": "adamw", "momentum": 0.9}, "has no setting 'momentum'"),
    ],
)
def test_mistakes_are_named(given, says):
    with pytest.raises(SettingsError, match=says):
        OPTIMIZERS.resolve(given)
    with pytest.raises(SettingsError, match=says):
        fit(tiny.model("llama"), training.BATCHES, training.SETTINGS, optimizer=given)
