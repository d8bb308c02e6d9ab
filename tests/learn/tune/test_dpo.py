"""DPO: its loss and gradient are the paper's, and it raises what is chosen over what is not."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learn.tune.cases import PAIRS, drawn, written
from treadle.learn.tune import tune
from treadle.learn.tune.methods.dpo import DPO


def naive(found, method):
    sums, counts = [0.0] * found.num_documents, [0] * found.num_documents
    for row, target, owner in zip(
        found.logits.tolist(), found.targets.tolist(), found.documents.tolist(), strict=True
    ):
        sums[owner] += row[target] - math.log(math.fsum(math.exp(value) for value in row))
        counts[owner] += 1
    total = 0.0
    for pair in range(0, found.num_documents, 2):
        rewards = []
        for one in (pair, pair + 1):
            raised = sums[one] - float(found.reference[one])
            rewards.append(raised / counts[one] if method.normalises_length else raised)
        margin = method.beta * (rewards[0] - rewards[1])
        total += (1 - method.label_smoothing) * math.log1p(math.exp(-margin))
        total += method.label_smoothing * math.log1p(math.exp(margin))
    return total / (found.num_documents // 2)


@given(
    st.integers(0, 6),
    st.integers(1, 3),
    st.integers(2, 6),
    st.sampled_from([0.0, 0.2]),
    st.booleans(),
    st.integers(0, 99),
)
def test_the_loss_is_equation_7(places, pairs, vocab, smoothing, normalises, seed):
    reference = torch.linspace(-3, -1, 2 * pairs, dtype=torch.float64)
    found = drawn(places, 2 * pairs, vocab, seed, reference=reference)
    method = DPO(beta=0.3, label_smoothing=smoothing, normalises_length=normalises)
    assert float(method.loss(found).detach()) == pytest.approx(naive(found, method), rel=1e-10)


def test_the_model_itself_as_reference_has_no_margin():
    found = drawn(3, 2, 5, seed=0)
    log_probs = found.logits.detach().log_softmax(-1).gather(1, found.targets[:, None])[:, 0]
    reference = torch.zeros(2, dtype=torch.float64).index_add(0, found.documents, log_probs)
    loss = DPO().loss(found._replace(reference=reference))
    assert float(loss.detach()) == pytest.approx(math.log(2))
    loss.backward()  # beta (1 - sigmoid(0)) / ... on chosen and rejected, with opposite signs
    assert float(found.logits.grad.abs().sum()) > 0


def test_the_margin_of_pairs_that_are_not_learned_rises(llama, tmp_path):
    data = written(tmp_path / "pairs.jsonl", PAIRS)
    result = tune(
        llama,
        tmp_path / "out",
        "dpo",
        data=data,
        steps=6,
        rows=4,
        learning_rate=1e-3,
        evaluate_every=3,
    )
    assert result.measurement("heldout_margin").low > 0
    assert result.measurement("heldout_accuracy").value == 1
    assert result.measurement("kl_to_reference").value > 0
    assert "heldout_bits_per_byte_difference" in [entry.name for entry in result.measurements]
    (rewards,) = [figure for figure in result.figures if figure.title == "Held-out rewards"]
    assert [series.x for series in rewards.series] == [[0, 3, 6]] * 2
    assert result.measurement("loss_first").value == pytest.approx(math.log(2), abs=1e-4)
    assert result.measurement("loss_last").value < 0.6
