"""The training loop: its arithmetic, its schedule, its resume."""

import math

import pytest
import torch
from torch.nn import functional

from treadle.core.errors import DataError, SettingsError
from treadle.core.seed import torch_stream
from treadle.model import tiny
from treadle.model.fit import FitSettings, fit, loss_figure, random_batches

TOKENS = torch.randint(0, 16, (400,), generator=torch_stream(0, "tokens")).repeat(5)


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def naive(model, batches, settings):
    """AdamW once more, from the paper, a parameter at a time."""
    state = {name: [0.0, 0.0] for name, _ in model.named_parameters()}
    for step in range(settings.num_steps):
        rows = batches(step)
        logits = model(input_ids=rows).logits[:, :-1].flatten(0, 1)
        loss = functional.cross_entropy(logits, rows[:, 1:].flatten())
        model.zero_grad()
        loss.backward()
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters()))
        scale = min(1.0, settings.clip_norm / (norm + 1e-6))
        rate = settings.rate(step)
        with torch.no_grad():
            for name, p in model.named_parameters():
                gradient = p.grad * scale
                first, second = state[name]
                first = settings.betas[0] * first + (1 - settings.betas[0]) * gradient
                second = settings.betas[1] * second + (1 - settings.betas[1]) * gradient**2
                state[name] = [first, second]
                mean = first / (1 - settings.betas[0] ** (step + 1))
                variance = second / (1 - settings.betas[1] ** (step + 1))
                decay = settings.weight_decay if p.dim() > 1 else 0.0
                p.mul_(1 - rate * decay)
                p.sub_(rate * mean / (variance.sqrt() + 1e-8))


# Without biases of keys, whose gradient is zero but for rounding, which AdamW would blow up.
@pytest.mark.parametrize("model_type", ["llama", "phi3"])
def test_fit_equals_adamw_written_out(model_type):
    settings = FitSettings(num_steps=4, learning_rate=1e-3, clip_norm=0.5)
    batches = random_batches(TOKENS, 4, 16, seed=1)
    found, expected = tiny.model(model_type), tiny.model(model_type)
    fit(found, batches, settings)
    for parameter in expected.parameters():
        parameter.requires_grad_(True)
    naive(expected, batches, settings)
    for name, value in weights(expected).items():
        torch.testing.assert_close(weights(found)[name], value, rtol=1e-4, atol=2e-6)


def test_accumulated_parts_equal_the_whole():
    batches = random_batches(TOKENS, 4, 16, seed=1)
    whole, parts = tiny.model("llama"), tiny.model("llama")
    one = fit(whole, batches, FitSettings(num_steps=3))
    two = fit(parts, batches, FitSettings(num_steps=3, num_accumulated=4))
    assert two.losses == pytest.approx(one.losses, rel=1e-5)
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], value, rtol=1e-3, atol=1e-4)


def test_the_loss_falls_far_below_that_of_a_guess():
    found = fit(
        tiny.model("llama"),
        random_batches(TOKENS, 8, 16, seed=1),
        FitSettings(num_steps=60, learning_rate=3e-3, weight_decay=0.0),
    )
    assert found.losses[0] > 4
    assert sum(found.losses[-5:]) / 5 < math.log(16)  # better than knowing which 16 tokens occur
    figure = loss_figure({"tiny": found.losses}, num_points=10)
    assert figure.series[0].x[-1] == 60
    assert len(figure.series[0].y) == 10


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path):
    settings = FitSettings(num_steps=6, save_every=2)
    batches = random_batches(TOKENS, 4, 16, seed=1)
    whole = tiny.model("llama")
    expected = fit(whole, batches, settings, tmp_path / "whole")

    def killed(step):
        if step == 5:
            raise KeyboardInterrupt
        return batches(step)

    with pytest.raises(KeyboardInterrupt):
        fit(tiny.model("llama"), killed, settings, tmp_path / "state")
    resumed = tiny.model("llama", seed=7)  # its own weights give way to the saved ones
    found = fit(resumed, batches, settings, tmp_path / "state")
    assert found.first_step == 4
    assert found.losses == expected.losses
    for name, value in weights(whole).items():
        assert torch.equal(weights(resumed)[name], value)
    assert not list((tmp_path / "state").iterdir())


def test_the_state_of_another_run_is_refused(tmp_path):
    batches = random_batches(TOKENS, 2, 8, seed=1)

    def killed(step):
        if step == 1:
            raise KeyboardInterrupt
        return batches(step)

    with pytest.raises(KeyboardInterrupt):
        fit(tiny.model("llama"), killed, FitSettings(num_steps=2, save_every=1), tmp_path)
    with pytest.raises(SettingsError, match="other settings"):
        fit(tiny.model("llama"), batches, FitSettings(num_steps=3, save_every=1), tmp_path)


def test_the_schedule_rises_and_falls_as_it_says():
    settings = FitSettings(num_steps=101, learning_rate=1.0, warmup_fraction=0.1)
    rates = [settings.rate(step) for step in range(101)]
    assert rates[0] == pytest.approx(1 / 11)
    assert max(rates) == rates[10] == rates[11] == 1.0
    assert rates[100] == pytest.approx(0.1)
    assert rates[11:] == sorted(rates[11:], reverse=True)


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"num_accumulated": 3}, SettingsError, "equal parts"),
        ({"save_every": 1}, SettingsError, "needs a folder"),
        ({"learning_rate": 1e30, "clip_norm": 0.0}, DataError, "lower the learning rate"),
    ],
)
def test_mistakes_are_named(settings, error, says):
    batches = random_batches(TOKENS, 4, 16, seed=1)
    with pytest.raises(error, match=says):
        fit(tiny.model("llama"), batches, FitSettings(num_steps=4, **settings))


def test_a_text_shorter_than_a_window_is_refused():
    with pytest.raises(DataError, match="too few for one window of 500"):
        random_batches(TOKENS[:400], 1, 500, seed=0)
