"""The training loop: its arithmetic, its schedule, what it evaluates, keeps and refuses."""

import math

import pytest
import torch

from fit.answered import ANSWERS, TOKENS, answer_loss, answers, weights
from treadle.model import tiny
from treadle.model.fit import (
    FitSettings,
    Objective,
    fit,
    loss_figure,
    norm_figure,
    random_batches,
    speed_figure,
)


def test_accumulated_parts_equal_the_whole():
    batches = random_batches(TOKENS, 4, 16, seed=1)
    whole, parts = tiny.model("llama"), tiny.model("llama")
    one = fit(whole, batches, FitSettings(steps=3))
    two = fit(parts, batches, FitSettings(steps=3, num_accumulated=4))
    assert two.losses == pytest.approx(one.losses, rel=1e-5)
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], value, rtol=1e-3, atol=1e-4)


def test_the_loss_falls_far_below_that_of_a_guess():
    found = fit(
        tiny.model("llama"),
        random_batches(TOKENS, 8, 16, seed=1),
        FitSettings(steps=60, learning_rate=3e-3),
        optimizer={"method": "adamw", "weight_decay": 0.0},
    )
    assert found.losses[0] > 4
    assert sum(found.losses[-5:]) / 5 < math.log(16)  # better than knowing which 16 tokens occur
    figure = loss_figure({"tiny": found.losses}, num_points=10)
    assert figure.series[0].x[-1] == 60
    assert len(figure.series[0].y) == 10


@pytest.mark.parametrize("num_parts", [2, 5])
def test_ragged_parts_weigh_as_many_tokens_as_they_have(num_parts):
    whole, parts, plain = (tiny.model("llama") for _ in range(3))
    settings = {"steps": 2, "clip_norm": 0.0}
    one = fit(whole, answers, FitSettings(**settings), objective=ANSWERS)
    split = FitSettings(num_accumulated=num_parts, **settings)
    two = fit(parts, answers, split, objective=ANSWERS)
    assert two.losses == pytest.approx(one.losses, rel=1e-5)
    assert two.gradient_norms == pytest.approx(one.gradient_norms, rel=1e-4)
    assert two.num_tokens == [80, 80]
    first = answer_loss(plain, answers(0, ())).detach()
    assert one.losses[0] == pytest.approx(float(first), rel=1e-6)


def test_a_mean_of_means_is_another_loss():
    """What weights are for: equal parts would weigh a row's few tokens as much as many."""
    settings = FitSettings(steps=1, num_accumulated=2)

    def even(step, losses):
        batch = answers(step, losses)
        return {name: batch[name][[0, 4]] for name in batch}

    whole = fit(tiny.model("llama"), even, FitSettings(steps=1), objective=ANSWERS)
    weighed = fit(tiny.model("llama"), even, settings, objective=ANSWERS)
    plain = fit(tiny.model("llama"), even, settings, objective=Objective(answer_loss))
    assert weighed.losses == pytest.approx(whole.losses, rel=1e-6)
    assert abs(plain.losses[0] - whole.losses[0]) > 1e-3


@pytest.mark.parametrize("form", [tuple, list])
def test_batches_may_be_tuples_and_see_the_losses(form):
    seen = []

    def batches(step, losses):
        seen.append(form(losses))
        rows = random_batches(TOKENS, 2, 8, seed=step)(step, losses)
        return rows, rows

    def loss(model, batch):
        tokens, labels = batch
        assert len(tokens) == 1
        return model(input_ids=tokens, labels=labels).loss

    settings = FitSettings(steps=3, num_accumulated=2)
    found = fit(tiny.model("llama"), batches, settings, objective=Objective(loss))
    assert seen == [form(found.losses[:step]) for step in range(3)]


def test_evaluations_stand_beside_the_loss():
    model = tiny.model("llama")
    batches = random_batches(TOKENS, 4, 16, seed=1)
    heldout = random_batches(TOKENS, 4, 16, seed=2)(0, ())

    def evaluate(num_done):
        assert not torch.is_grad_enabled()
        loss = model(input_ids=heldout, labels=heldout).loss
        return {"held-out": float(loss), "updates": num_done}

    settings = FitSettings(steps=5, evaluate_every=2)
    found = fit(model, batches, settings, evaluate=evaluate)
    assert found.evaluations["updates"] == [(n, n) for n in (0, 2, 4, 5)]
    with torch.no_grad():
        last = float(model(input_ids=heldout, labels=heldout).loss)
    assert found.evaluations["held-out"][-1] == (5, last)
    without = fit(tiny.model("llama"), batches, FitSettings(steps=5))
    assert without.losses == found.losses
    figure = loss_figure({"training": found.losses}, evaluations=found.evaluations)
    assert [series.name for series in figure.series] == ["training", "held-out", "updates"]
    assert figure.series[1].x == [0, 2, 4, 5]


def test_figures_average_norms_and_speed():
    found = fit(tiny.model("llama"), random_batches(TOKENS, 2, 8, seed=1), FitSettings(steps=4))
    norms = norm_figure({"tiny": found.gradient_norms}, num_points=2).series[0]
    assert norms.y[1] == pytest.approx(sum(found.gradient_norms[2:]) / 2)
    speed = speed_figure({"tiny": found}, num_points=2).series[0]
    assert speed.x == [2, 4]
    assert speed.y[0] == pytest.approx(32 / sum(found.seconds[:2]))
    assert found.tokens_per_second == pytest.approx(64 / sum(found.seconds))


def test_the_schedule_rises_and_falls_as_it_says():
    settings = FitSettings(steps=101, learning_rate=1.0, warmup_fraction=0.1)
    rates = [settings.rate(step) for step in range(101)]
    assert rates[0] == pytest.approx(1 / 11)
    assert max(rates) == rates[10] == rates[11] == 1.0
    assert rates[100] == pytest.approx(0.1)
    assert rates[11:] == sorted(rates[11:], reverse=True)
