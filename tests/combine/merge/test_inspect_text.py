"""The gain of averaging that inspect foretells, against losses that are computed."""

from pathlib import Path

import numpy as np
import pytest
import torch

from combine.merge.models import arrays_of, variant
from combine.merge.sites import MemorySite
from naive import plain_model
from treadle.combine.merge import merge_inspect
from treadle.combine.merge.maths.curvature import averaging_gain
from treadle.core.errors import SettingsError
from treadle.model.load import load_tokenizer
from treadle.model.statistics import collect_importance
from treadle.model.text import sampled_windows

WINDOWS = {"num_windows": 4, "window_tokens": 32}


class Importance:
    """What is known, from memory."""

    is_transposed = False

    def __init__(self, values: np.ndarray) -> None:
        self.values = values.reshape(-1)

    def importance(self, first: int, target: np.ndarray) -> None:
        target[:] = self.values[first : first + target.size]

    def gram(self) -> None:
        return None


def said_by(model: torch.nn.Module, rows: int, length: int) -> torch.Tensor:
    """Tokens that the model draws itself: it predicts them as they are."""
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 320, (rows, 1), generator=draw)
    for _ in range(length - 1):
        with torch.no_grad():
            shares = torch.softmax(model(input_ids=tokens).logits[:, -1].double(), dim=-1)
        tokens = torch.cat([tokens, torch.multinomial(shares, 1, generator=draw)], dim=1)
    return tokens


def loss_of(model: torch.nn.Module, tokens: torch.Tensor) -> float:
    with torch.no_grad():
        return float(model.double()(input_ids=tokens, labels=tokens).loss)


@pytest.mark.parametrize("count", [2, 3])
def test_the_gain_is_that_of_the_losses_where_models_are_near(llama, count, tmp_path) -> None:
    tokens = said_by(plain_model(llama), 48, 24)
    models = [variant(llama, tmp_path / f"m{n}", n, scale=0.02) for n in range(1, count + 1)]
    arrays = [arrays_of(model) for model in models]
    known = [collect_importance(model, tokens) for model in models]
    estimate = 0.0
    for name in arrays[0]:
        site = MemorySite([own[name] for own in arrays], run=1000)
        knowledge = [Importance(own[name].numpy()) for own in known]
        estimate += sum(averaging_gain(c, knowledge, 23) for c in site.chunks("elements"))
    mean = plain_model(llama).double()
    for name, value in mean.state_dict().items():
        if name in arrays[0]:
            value.copy_(torch.tensor(np.mean([own[name] for own in arrays], axis=0)))
    losses = [loss_of(plain_model(model), tokens) for model in models]
    measured = np.mean(losses) - loss_of(mean, tokens)
    assert measured > 0.001
    assert estimate == pytest.approx(measured, rel=0.15)


def naive_gain(models: list[Path], texts: list[str]) -> dict[str, float]:
    """Tensor by tensor, as the equation says."""
    found: dict[str, float] = {}
    windows = [
        sampled_windows(text, load_tokenizer(model), 4, 32, seed=5).tokens
        for text, model in zip(texts, models, strict=True)
    ]
    known = [collect_importance(*pair) for pair in zip(models, windows, strict=True)]
    arrays = [arrays_of(model) for model in models]
    for name in arrays[0]:
        values = np.stack([own[name].astype(np.float64) for own in arrays])
        spread = np.square(values - values.mean(axis=0)).mean(axis=0)
        fisher = 31 * sum(own[name].numpy().astype(np.float64) for own in known) / len(known)
        found[name] = 0.5 * float((fisher * spread).sum())
    return found


def test_reference_every_layer_is_told(family, text, tmp_path) -> None:
    models = family.experts[:2]
    other = tmp_path / "other.txt"
    other.write_text("the quick brown fox jumps over the lazy dog; " * 60)
    texts = [text, str(other)]
    found = merge_inspect(models, text=texts, seed=5, out=tmp_path / "out", **WINDOWS)
    expected = naive_gain(models, texts)
    measured = found.measurement("gain of averaging")
    assert measured.value == pytest.approx(sum(expected.values()), rel=1e-4)
    assert measured.unit == "nats a token"
    (figure,) = [one for one in found.figures if one.kind == "bar"]
    bars = dict(zip(figure.series[0].x, figure.series[0].y, strict=True))
    first = sum(value for name, value in expected.items() if ".layers.0." in name)
    assert bars["layer 0"] == pytest.approx(first, rel=1e-4)
    assert sum(bars.values()) == pytest.approx(measured.value)
    assert [entry.role for entry in found.inputs] == ["model", "model", "data", "data"]
    assert any("Evaluate each one on all the texts" in note for note in found.notes)
    assert {path.name for path in tmp_path.iterdir()} == {"out", "other.txt"}


def test_limits_equal_models_gain_nothing(llama, text, tmp_path) -> None:
    same = [variant(llama, tmp_path / f"m{n}", 0) for n in (1, 2)]
    found = merge_inspect(same, text=[text], **WINDOWS)
    assert found.measurement("gain of averaging").value == 0.0


def test_meaning_models_far_apart_are_called_so(llama, text, tmp_path) -> None:
    gains = []
    for scale in (0.05, 0.5):
        pair = [variant(llama, tmp_path / f"m{n}{scale}", n, scale=scale) for n in (1, 2)]
        found = merge_inspect(pair, base=llama, text=[text], **WINDOWS)
        gains.append(found.measurement("gain of averaging").value)
        is_far = any("lie far apart" in note for note in found.notes)
        assert is_far == (gains[-1] > 0.5)
    assert gains[1] > 10 * gains[0]
    assert gains[1] > 0.5


def test_mistakes_are_named(family, text) -> None:
    with pytest.raises(SettingsError, match="bos = 'each' has no effect without a text"):
        merge_inspect(family.experts, bos="each")
    with pytest.raises(SettingsError, match="2 texts were given for 3 models"):
        merge_inspect(family.experts, text=[text, text], **WINDOWS)
