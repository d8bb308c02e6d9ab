"""SFT: its loss is the plain cross-entropy of the answers, and a model learns what it is taught."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learn.tune.cases import QUESTIONS, drawn, written
from treadle.core.errors import DataError
from treadle.learn.tune import tune
from treadle.learn.tune.methods.sft import SFT
from treadle.learn.tune.rows import read_rows


def naive(found, smoothing):
    total = 0.0
    for row, target in zip(found.logits.tolist(), found.targets.tolist(), strict=True):
        log_sum = math.log(math.fsum(math.exp(value) for value in row))
        spread = math.fsum(value - log_sum for value in row) / len(row)
        total -= (1 - smoothing) * (row[target] - log_sum) + smoothing * spread
    return total / len(found.targets)


@given(
    st.integers(0, 5),
    st.integers(1, 3),
    st.integers(2, 7),
    st.sampled_from([0.0, 0.25]),
    st.integers(0, 99),
)
def test_the_loss_is_the_mean_cross_entropy(places, documents, vocab, smoothing, seed):
    found = drawn(places, documents, vocab, seed)
    loss = SFT(label_smoothing=smoothing).loss(found)
    assert float(loss.detach()) == pytest.approx(naive(found, smoothing), rel=1e-12)
    loss.backward()
    expected = found.logits.detach().clone().requires_grad_()
    torch.nn.functional.cross_entropy(expected, found.targets, label_smoothing=smoothing).backward()
    assert torch.allclose(found.logits.grad, expected.grad, atol=1e-12)


def test_a_model_learns_its_answers_and_not_those_of_others(llama, tmp_path):
    data = written(tmp_path / "rows.jsonl", QUESTIONS)
    settings = {"steps": 25, "rows": 6, "learning_rate": 1e-2}
    own = tune(llama, tmp_path / "own", "sft", data=data, **settings)
    other = tune(llama, tmp_path / "other", "sft", data=data, shuffle_answers=True, **settings)
    assert own.measurement("loss_last").value < 0.5 * own.measurement("loss_first").value
    assert other.is_control
    assert not own.is_control
    data = written(tmp_path / "all.jsonl", [*QUESTIONS, QUESTIONS[0]])
    held = written(tmp_path / "held.jsonl", QUESTIONS)
    right = tune(
        tmp_path / "own", tmp_path / "x", "sft", data=data, steps=1, heldout=held
    ).measurement("heldout_loss_before")
    wrong = tune(
        tmp_path / "other", tmp_path / "y", "sft", data=data, steps=1, heldout=held
    ).measurement("heldout_loss_before")
    assert right.value < wrong.value - 0.1


def test_a_question_with_choices_is_learned_by_its_right_one(tmp_path):
    row = {"query": "The sky is", "choices": ["green.", "blue."], "gold": 1}
    found = read_rows(written(tmp_path / "choice.jsonl", [row]), False).rows[0]
    assert (found.prompt, found.answer) == ("The sky is", " blue.")
    for wrong in ({"gold": 2}, {"gold": "1"}, {"choices": "blue"}, {"choices": [1, 2]}):
        data = written(tmp_path / "wrong.jsonl", [row, row | wrong])
        with pytest.raises(DataError, match=r"Line 2 .*write \{\"query\""):
            read_rows(data, False)
