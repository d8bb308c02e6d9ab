"""Distillation: divergences as they are defined, kept teachers, and a student that comes near."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learn.tune.cases import drawn
from treadle.learn.tune import tune
from treadle.learn.tune.base import TeacherSays
from treadle.learn.tune.methods.distill import Distill


def shares(row, temperature):
    powers = [math.exp(value / temperature) for value in row]
    return [power / math.fsum(powers) for power in powers]


def kl(p, q):
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def naive(found, teacher, method):
    total = 0.0
    for own, other, target in zip(
        found.logits.tolist(), teacher.tolist(), found.targets.tolist(), strict=True
    ):
        p, q = shares(other, method.temperature), shares(own, method.temperature)
        m = [method.beta * a + (1 - method.beta) * b for a, b in zip(p, q, strict=True)]
        mixed = method.beta * kl(p, m) + (1 - method.beta) * kl(q, m)
        found_now = {"forward": kl(p, q), "reverse": kl(q, p), "jsd": mixed}
        total += method.temperature**2 * found_now[method.divergence]
        total -= method.cross_entropy * math.log(shares(own, 1.0)[target])
    return total / len(found.targets)


@given(
    st.integers(0, 5),
    st.integers(2, 7),
    st.sampled_from(["forward", "reverse", "jsd"]),
    st.sampled_from([1.0, 2.0]),
    st.sampled_from([0.0, 0.5]),
    st.integers(0, 99),
)
def test_the_loss_is_the_divergence(places, vocab, divergence, temperature, weight, seed):
    teacher = drawn(places, 1, vocab, seed + 1).logits.detach()
    found = drawn(places, 1, vocab, seed, teacher=TeacherSays(teacher))
    method = Distill(divergence=divergence, beta=0.3, temperature=temperature, cross_entropy=weight)
    assert float(method.loss(found).detach()) == pytest.approx(
        naive(found, teacher, method), rel=1e-9
    )


def test_a_padded_vocabulary_is_cut_to_what_both_have():
    teacher = drawn(4, 1, 6, seed=1).logits.detach()
    found = drawn(4, 1, 6, seed=2, teacher=TeacherSays(teacher))
    padded = torch.cat([teacher, torch.full((len(teacher), 2), 3.0, dtype=torch.float64)], dim=1)
    wider = found._replace(teacher=TeacherSays(padded))
    assert float(Distill().loss(wider).detach()) == pytest.approx(
        float(Distill().loss(found).detach())
    )


@pytest.mark.parametrize("divergence", ["forward", "reverse", "jsd"])
def test_likeliest_tokens_and_a_tail_say_at_most_what_all_say(divergence):
    teacher = drawn(20, 1, 12, seed=1).logits.detach()
    found = drawn(20, 1, 12, seed=2)
    method = Distill(divergence=divergence)
    whole = float(method.loss(found._replace(teacher=TeacherSays(teacher))).detach())
    log_probs = teacher.log_softmax(-1)
    losses = []
    for top in (1, 4, 11):
        best = log_probs.topk(top)
        says = TeacherSays(ids=best.indices, log_probs=best.values)
        losses.append(float(method.loss(found._replace(teacher=says)).detach()))
    assert losses == sorted(losses)
    assert losses[-1] == pytest.approx(whole)  # eleven and one more outcome are all twelve
    assert losses[0] > 0


def test_a_ruined_student_comes_back_and_a_kept_teacher_serves_as_well(llama, text, tmp_path):
    from treadle.shrink.prune import prune

    prune(llama, tmp_path / "pruned", "magnitude", sparsity=0.5)
    settings = {"text": text, "window_tokens": 64, "steps": 12, "learning_rate": 3e-3}
    gaps = {}
    for name, more in {"live": {}, "kept": {"top": 32}}.items():
        result = tune(
            tmp_path / "pruned", tmp_path / name, "distill", teacher=str(llama), **settings, **more
        )
        first, last = (result.measurement(f"loss_{end}").value for end in ("first", "last"))
        gaps[name] = last / first
        assert result.settings["keep_zeros"]
    assert gaps["live"] < 0.75
    assert gaps["kept"] < 0.8
    assert (tmp_path / "kept" / "result.json").is_file()
    assert not (tmp_path / ".kept.tuning").exists()
