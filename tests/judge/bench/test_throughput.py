"""Throughput against a model whose times are known, and through the verb."""

import pytest

from judge.bench.machines import Clocked
from treadle.judge.bench import bench
from treadle.judge.bench.methods.throughput import Throughput


def test_answers_of_all_requests_count(clock):
    model = Clocked(token_seconds=2e-3)
    method = Throughput(num_requests=4, prompt_tokens=20, new_tokens=6, rounds=2)
    found, by_cpu = method.measure(model, 0).measurements
    assert by_cpu.value == pytest.approx(found.value / 2)
    assert found.value == pytest.approx(4 * 6 / (5 * 2e-3))
    lengths, num_new = model.calls[0]
    assert len(lengths) == 4
    assert len(set(lengths)) > 1
    assert all(1 <= length <= 20 for length in lengths)
    assert num_new == 6


def test_the_seed_draws_the_prompts(clock):
    calls = []
    for seed in (0, 0, 1):
        model = Clocked()
        Throughput(num_requests=6, new_tokens=1, rounds=1).measure(model, seed)
        calls.append(model.calls)
    assert calls[0] == calls[1] != calls[2]


def test_a_batch_makes_more_tokens_than_one_request(llama, tmp_path):
    rates = [
        bench(
            llama,
            tmp_path / str(count),
            Throughput(num_requests=count, prompt_tokens=4, new_tokens=24, rounds=5),
            num_threads=1,  # several would wait for each other where other processes run
        )
        .measurement("answers_by_cpu")
        .value
        for count in (1, 8)
    ]
    assert rates[1] > rates[0]
