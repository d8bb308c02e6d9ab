"""Steps whose parts the batches cut themselves, schedules, and saves that the clock asks for."""

import re

import pytest
import torch

from fit.answered import ANSWERS, answers
from treadle.core.errors import DataError, SettingsError
from treadle.model import tiny
from treadle.model.fit import FitSettings, Objective, fit, memory_figure, next_token_loss
from treadle.model.fit.batches import split
from treadle.model.fit.settings import FitSettings as Settings
from treadle.model.fit.state import SaveWatch


def parts_of(step, losses):
    """The same rows, cut into one of four rows and a narrower one of one."""
    whole = answers(step, losses)
    first = {name: tensor[[0, 1, 2, 4]] for name, tensor in whole.items()}
    return [first, {name: tensor[[3], :12] for name, tensor in whole.items()}]


def test_parts_of_any_shape_learn_what_the_whole_learns():
    settings = FitSettings(steps=2, learning_rate=1e-3)
    expected = fit(tiny.model("llama"), answers, settings, objective=ANSWERS)
    found = fit(tiny.model("llama"), parts_of, settings, objective=ANSWERS)
    assert found.losses == pytest.approx(expected.losses, rel=1e-5)
    assert found.gradient_norms == pytest.approx(expected.gradient_norms, rel=1e-4)
    assert found.num_tokens == [4 * 16 + 12] * 2


def test_a_part_without_an_answer_weighs_nothing_and_a_bad_one_is_named():
    settings = FitSettings(steps=1)
    quiet = {"input_ids": torch.zeros(1, 4, dtype=torch.long), "is_answer": torch.zeros(1, 4) > 0}
    fit(tiny.model("llama"), lambda *_: [*parts_of(0, ()), quiet], settings, objective=ANSWERS)

    def nan(model, batch):
        return next_token_loss(model, batch["input_ids"]) * float("nan")

    with pytest.raises(DataError, match=r"loss is nan at step 0, part 1 of 2"):
        fit(tiny.model("llama"), parts_of, settings, objective=Objective(nan, lambda _: 1.0))


def test_parts_that_cannot_be_put_together_are_refused():
    batch = parts_of(0, ())
    with pytest.raises(SettingsError, match="num_accumulated = 2 has no effect"):
        split(batch, 2, may_differ=True)
    with pytest.raises(SettingsError, match=re.escape("Objective(loss, weight)")):
        split(batch, 1, may_differ=False)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("cosine", [0.5, 1.0, 1.0, 0.775, 0.325, 0.1]),
        ("linear", [0.5, 1.0, 1.0, 0.7, 0.4, 0.1]),
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_schedules(schedule, expected):
    settings = Settings(steps=6, learning_rate=1.0, warmup_fraction=0.3, schedule=schedule)
    assert [settings.rate(step) for step in range(6)] == pytest.approx(expected)


def test_a_trapezoid_is_flat_until_it_falls():
    settings = Settings(steps=101, learning_rate=1.0, warmup_fraction=0.0, schedule="trapezoid")
    rates = [settings.rate(step) for step in range(101)]
    assert rates[:81] == pytest.approx([1.0] * 81)
    assert rates[-1] == pytest.approx(0.1)
    assert rates[90] == pytest.approx(0.55)


def test_the_clock_asks_for_saves_but_not_for_many_long_ones():
    watch = SaveWatch(Settings(steps=9, save_every_seconds=1e-6))
    assert watch.is_due(1)
    assert not watch.is_due(9)  # the end, where the state goes
    watch.time(lambda: sum(range(200_000)))
    assert not watch.is_due(2)
    assert not SaveWatch(Settings(steps=9)).is_due(3)
    assert SaveWatch(Settings(steps=9, save_every=3)).is_due(3)


def test_memory_is_a_figure():
    done = fit(tiny.model("llama"), parts_of, FitSettings(steps=2), objective=ANSWERS)
    (series,) = memory_figure({"tiny": done}).series
    assert max(series.y) == max(done.memory_bytes) / 1e9 > 0
