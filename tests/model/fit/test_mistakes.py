import math

import numpy as np
import pytest
import torch

from fit.answered import ANSWERS, TOKENS, answers, weights
from treadle.core.errors import DataError, SettingsError
from treadle.model import tiny
from treadle.model.fit import (
    FitSettings,
    Objective,
    fit,
    next_token_loss,
    random_batches,
)


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"num_accumulated": 3}, SettingsError, "equal parts"),
        ({"num_accumulated": 8}, SettingsError, "4 rows cannot be split into 8"),
        ({"save_every": 1}, SettingsError, "needs a folder"),
        ({"evaluate_every": 1}, SettingsError, "needs something to evaluate"),
        ({"keep_zeros": True}, SettingsError, "no matrix that learns holds a zero"),
        ({"learning_rate": 1e30, "clip_norm": 0.0}, DataError, "lower the learning rate"),
    ],
)
def test_mistakes_are_named(settings, error, says):
    batches = random_batches(TOKENS, 4, 16, seed=1)
    with pytest.raises(error, match=says):
        fit(tiny.model("llama"), batches, FitSettings(steps=4, **settings))


def test_a_text_shorter_than_a_window_is_refused():
    with pytest.raises(DataError, match="too few for one window of 500"):
        random_batches(TOKENS[:400], 1, 500, seed=0)


def no_answer(step, losses):
    batch = answers(step, losses)
    return {**batch, "is_answer": batch["is_answer"] & False}


@pytest.mark.parametrize(
    ("batches", "objective", "error", "says"),
    [
        (no_answer, ANSWERS, DataError, "No token of step 0 has a loss"),
        (
            lambda step, _: (TOKENS[:4], TOKENS[:3]),
            ANSWERS,
            DataError,
            r"of step 0 have \[3, 4\] rows",
        ),
        (lambda step, _: TOKENS[:0], ANSWERS, DataError, r"of step 0 have \[0\] rows"),
    ],
)
def test_what_a_caller_brings_is_checked(batches, objective, error, says):
    with pytest.raises(error, match=says):
        fit(tiny.model("llama"), batches, FitSettings(steps=1), objective=objective)


def test_a_function_is_an_objective_of_equal_parts():
    batches, settings = random_batches(TOKENS, 4, 16, seed=1), FitSettings(steps=2)
    one = fit(tiny.model("llama"), batches, settings, objective=lambda m, b: next_token_loss(m, b))
    assert one.losses == fit(tiny.model("llama"), batches, settings).losses


def output_of(model, batch, **options):
    return model(input_ids=batch, use_cache=False, **options)


EXPECTED = "for step 0, rows 0 to 3, but a scalar tensor that depends on what learns was expected; "
SAME = "make it of the model's output without detach() and no_grad()."


@pytest.mark.parametrize(
    ("loss", "found", "mend"),
    [
        (lambda m, b: None, "None", "end the function with `return loss`."),
        (lambda m, b: "loss", "a str of length 4", "end the function with `return loss`."),
        (lambda m, b: 0.5, "a float (0.5)", "return the tensor itself, without item() or float()."),
        (
            lambda m, b: (next_token_loss(m, b), 1),
            "a tuple of length 2",
            "return the one of its parts that is the loss.",
        ),
        (
            lambda m, b: output_of(m, b, labels=b),
            "a CausalLMOutputWithPast of length 2",
            "return output.loss.",
        ),
        (
            output_of,
            "a CausalLMOutputWithPast of length 1",
            "hand the model labels, and return output.loss.",
        ),
        (
            lambda m, b: output_of(m, b).logits[0, 0, :2],
            "a tensor of shape [2] and torch.float32 with a gradient",
            "return a mean over tokens.",
        ),
        (
            lambda m, b: next_token_loss(m, b).detach(),
            "a tensor of shape [] and torch.float32 with no gradient",
            f"let parameters learn that it is made of, and {SAME}",
        ),
    ],
)
def test_what_is_no_loss_is_named_with_its_mend(loss, found, mend):
    batches = random_batches(TOKENS, 4, 16, seed=1)
    with pytest.raises(SettingsError) as refused:
        fit(tiny.model("llama"), batches, FitSettings(steps=1), objective=loss)
    assert str(refused.value) == f"The objective returned {found} {EXPECTED}{mend}"


def test_a_loss_of_nothing_that_learns_is_refused():
    batches = random_batches(TOKENS, 4, 16, seed=1)
    with pytest.raises(
        SettingsError, match=r"of step 0 depends on none of the 20 parameters .*; m"
    ):
        fit(
            tiny.model("llama"),
            batches,
            FitSettings(steps=1),
            objective=lambda model, batch: torch.ones((), requires_grad=True),
        )


@pytest.mark.parametrize(
    ("weight", "found"),
    [
        (None, "None"),
        ("4", "a str of length 1"),
        (True, r"a bool \(True\)"),
        (torch.ones(2), r"a tensor of shape \[2\] and torch.float32"),
        (-1.0, "-1.0"),
        (math.nan, "nan"),
        (torch.tensor(math.inf), "inf"),
    ],
)
def test_what_is_no_weight_is_named(weight, found):
    says = f"weighs a part of step 0 by {found}, but a finite number .*; return how many tokens"
    aim = Objective(next_token_loss, lambda batch: weight)
    batches = random_batches(TOKENS, 4, 16, seed=1)
    with pytest.raises(SettingsError, match=says):
        fit(tiny.model("llama"), batches, FitSettings(steps=1), objective=aim)


def test_a_weight_may_be_any_number():
    batches, settings = random_batches(TOKENS, 4, 16, seed=1), FitSettings(steps=1)
    for weight in (3, np.float32(3), np.int64(3), torch.tensor(3)):
        aim = Objective(next_token_loss, lambda batch, weight=weight: weight)
        assert math.isfinite(fit(tiny.model("llama"), batches, settings, objective=aim).losses[0])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"objective": "loss"}, "The objective's loss is a str of length 4, but a function was ex"),
        ({"objective": (next_token_loss, None)}, "The objective's loss is a tuple of length 2"),
        ({"objective": None}, "The objective's loss is None"),
        ({"objective": Objective(None)}, "The objective's loss is None, .*; give Objective"),
        ({"objective": Objective(next_token_loss, 2.0)}, r"The objective's weight is a float \(2"),
        ({"optimizer": 3}, "optimizer"),
        ({"optimizer": ["adamw"]}, "optimizer"),
        ({"batches": TOKENS[None]}, r"batches is a tensor of .*give `lambda step, losses: rows`"),
        ({"batches": None}, "batches is None, but a function of a step's number"),
        ({"settings": {"steps": 3}}, r"settings is a dict of length 1.*; give FitSettings\("),
        ({"evaluate": 3}, r"evaluate is an int \(3\), but a function of the number of updates"),
        ({"evaluate": lambda n: None}, "evaluate returned None after 0 updates, .*; return {'held"),
        ({"evaluate": lambda n: {"a": None}}, "returned None for 'a' after 0 updates, but a numbe"),
        ({"evaluate": lambda n: {3: 0.5}}, r"a float \(0.5\) for 3 after 0 updates, but a number"),
        ({"folder": "state"}, r"folder is a str of length 5, but a Path was expected; give Path\("),
        ({"identity": 3}, "identity = 3, but save_every needs a text"),
    ],
)
def test_an_argument_of_another_kind_is_named(arguments, says):
    batches, settings = random_batches(TOKENS, 4, 16, seed=1), FitSettings(steps=1)
    given = {"batches": batches, "settings": settings, **arguments}
    with pytest.raises(SettingsError, match=says):
        fit(tiny.model("llama"), **given)


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        (None, "The batch of step 2 is None, but a tensor, or a mapping or tuple of tensors, was"),
        ([1, 2], r"The batch of step 2 is an int \(1\), but a tensor, .*; return such"),
        (0.5, r"The batch of step 2 is a float \(0.5\), but"),
        (TOKENS[:8].numpy(), "The batch of step 2 is a ndarray of length 8, but"),
        ((), "The batch of step 2 is a tuple of length 0, but"),
        ({}, "The batch of step 2 is a dict of length 0, but"),
        ((TOKENS[None, :8], [1]), "The batch of step 2 holds a list of length 1, but only tensors"),
        (TOKENS[0], r"The batch of step 2 holds a tensor of shape \[\] and .*; leave it out"),
        (TOKENS[:0], r"The tensors of step 2 have \[0\] rows, but all need the same number"),
        (TOKENS[None, :0], "At step 2, rows 0 to 0: rows of 0 tokens predict nothing, and at leas"),
        (TOKENS[:4, None], "At step 2, rows 0 to 3: rows of 1 token predict nothing.*longer rows"),
        (
            TOKENS[:4],
            r"At step 2, .* is a tensor of shape \[4\] and torch.int64, but .*\[rows, tok",
        ),
        (TOKENS[None, :4] * 1.0, r"At step 2, .*shape \[1, 4\] and torch.float32, but the loss of"),
        (TOKENS[None, :4].int(), r"At step 2, .* and torch.int32, but .*torch.int64; return that"),
        (
            {"input_ids": TOKENS[None]},
            "At step 2, .* is a dict of length 1, but .* takes what it i",
        ),
        (
            torch.tensor([[3, 320]]),
            r"At step 2.* the ids reach from 3 to 320, but at least 0 and l",
        ),
        (torch.tensor([[3, 320]]), r"less than 320, the embedding's rows, was .*; encode the text"),
        (torch.tensor([[5, -100]]), r"At step 2, rows 0 to 0: the ids reach from -100 to 5, but"),
    ],
)
def test_a_batch_that_cannot_be_used_is_named(batch, says):
    good = random_batches(TOKENS, 4, 16, seed=1)
    model, settings = tiny.model("llama"), FitSettings(steps=3)
    with pytest.raises(DataError, match=says):
        fit(model, lambda step, losses: batch if step == 2 else good(step, losses), settings)


def test_all_ids_of_a_model_may_occur():
    rows = torch.tensor([[0, 319, 0, 319]])
    assert fit(tiny.model("llama"), lambda step, losses: rows, FitSettings(steps=1)).losses


def test_a_model_without_a_loss_is_refused():
    batches = random_batches(TOKENS, 4, 16, seed=1)
    with pytest.raises(SettingsError, match=r"LlamaModel returned no loss .*; give a causal langu"):
        fit(tiny.model("llama").model, batches, FitSettings(steps=1))


@pytest.mark.parametrize(("rows", "seq"), [(0, 8), (4, 0)])
def test_windows_of_nothing_are_refused(rows, seq):
    with pytest.raises(SettingsError, match=f"rows = {rows} and seq = {seq} make empty batches; g"):
        random_batches(TOKENS, rows, seq, seed=1)


def test_a_loss_that_is_no_number_names_its_step_and_rows():
    def loss(model, batch):
        found = model(input_ids=batch, labels=batch).loss
        return found * float("nan") if batch[0, 0] == 7 else found

    def batches(step, losses):
        rows = random_batches(TOKENS, 4, 16, seed=1)(step, losses) % 7
        rows[3 if step == 2 else 0, 0] = 7 if step == 2 else 1
        return rows

    model = tiny.model("llama")
    settings = FitSettings(steps=4, num_accumulated=4)
    with pytest.raises(DataError, match="The loss is nan at step 2, rows 3 to 3; lower"):
        fit(model, batches, settings, objective=Objective(loss))
    assert all(p.grad is None and bool(p.isfinite().all()) for p in model.parameters())


def test_a_gradient_that_is_no_number_stops_before_its_update():
    def loss(model, batch):
        """A root at zero: its value is fine, and its slope is infinite."""
        found = model(input_ids=batch, labels=batch).loss
        return found + (found - found.detach()).abs().sqrt()

    model = tiny.model("llama")
    before = weights(model)
    with pytest.raises(DataError, match=r"norm of the gradient is (nan|inf) at step 0"):
        fit(
            model,
            random_batches(TOKENS, 2, 8, seed=1),
            FitSettings(steps=1),
            objective=Objective(loss),
        )
    assert all(torch.equal(value, before[name]) for name, value in weights(model).items())
