"""Perplexity against naive loops over transformers' own model."""

import math
from pathlib import Path

import pytest
import torch

from judge.evaluate.runs import measure
from naive import plain_losses, plain_model
from products import each_kind
from treadle.core.intervals import bootstrap_mean
from treadle.core.result import read_result
from treadle.model import facts, tiny
from treadle.model.load import load_tokenizer
from treadle.model.text import windows


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build("llama", tmp_path_factory.mktemp("other"), seed=3)


@pytest.mark.parametrize("model_type", each_kind(sorted(facts.ARCHITECTURES)))
def test_perplexity_equals_a_naive_loop(
    model_type: str, tiny_model, text: str, tmp_path: Path
) -> None:
    folder = tiny_model(model_type)
    result = measure(folder, tmp_path, text)
    cut = windows(text, load_tokenizer(folder), 5, 20)
    losses = plain_losses(plain_model(folder), cut.tokens).double()
    nll = float(losses.mean())
    assert result.measurement("nll").value == pytest.approx(nll, rel=1e-5)
    assert result.measurement("perplexity").value == pytest.approx(math.exp(nll), rel=1e-4)
    bits = float(losses.sum()) / math.log(2) / cut.protocol.num_bytes
    assert result.measurement("bits_per_byte").value == pytest.approx(bits, rel=1e-5)
    assert result.samples["nll"] == pytest.approx(losses.mean(dim=1).tolist(), rel=1e-5)
    low, high = bootstrap_mean(losses.mean(dim=1).tolist(), seed=0)
    assert result.measurement("nll").low == pytest.approx(low, rel=1e-5)
    assert result.measurement("perplexity").high == pytest.approx(math.exp(high), rel=1e-4)
    assert {m.protocol for m in result.measurements} == {cut.protocol.hash}
    assert read_result(tmp_path) == result


def test_a_huge_loss_does_not_overflow() -> None:
    from treadle.judge.evaluate.base import Rows
    from treadle.judge.evaluate.methods.perplexity import Perplexity

    found, _ = Perplexity().score(Rows([], {}, 10), [torch.full((3,), 5000.0)] * 2)
    assert found[0].value == math.exp(700.0)
    assert found[1].value == 5000.0


def test_a_comparison_pairs_windows(llama: Path, other: Path, text: str, tmp_path: Path) -> None:
    base = measure(llama, tmp_path / "base", text)
    result = measure(other, tmp_path / "mine", text, baseline=tmp_path / "base", seed=4)
    differences = [a - b for a, b in zip(result.samples["nll"], base.samples["nll"], strict=True)]
    ratio = result.measurement("perplexity_ratio")
    assert ratio.value == pytest.approx(math.exp(sum(differences) / 5))
    low, high = bootstrap_mean(differences, 4)
    assert (ratio.low, ratio.high) == pytest.approx((math.exp(low), math.exp(high)))
    assert [entry.name for entry in result.inputs] == ["model", "config", "data", "baseline"]
    same = measure(llama, tmp_path / "same", text, baseline=tmp_path / "base")
    assert same.measurement("perplexity_ratio").value == 1.0
