"""AdaMerging against the same descent, written down as one function of the coefficients."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.func import functional_call

from combine.merge.models import arrays_of, run, variant
from combine.merge.sites import MemorySite, merged, tuned
from naive import plain_losses, plain_model
from treadle.combine.merge import merge
from treadle.combine.merge.inputs.entropy import layer_row, learned_coefficients
from treadle.combine.merge.methods.adamerging import AdaMerging
from treadle.combine.merge.methods.task_arithmetic import TaskArithmetic
from treadle.core.errors import SettingsError
from treadle.model import tiny
from treadle.model.load import load_tokenizer
from treadle.model.text import sampled_windows

WINDOWS = {"num_windows": 4, "window_tokens": 32}


def windows_of(model: Path, text: str) -> torch.Tensor:
    return sampled_windows(text, load_tokenizer(model), 4, 32, seed=0).tokens


def entropy(logits: torch.Tensor) -> torch.Tensor:
    """Position by position."""
    found = []
    for row in logits[0]:
        shares = torch.softmax(row, dim=0)
        found.append(-(shares * shares.log()).sum())
    return torch.stack(found).mean()


def naive(base: Path, models: list[Path], tokens: torch.Tensor, steps: int) -> torch.Tensor:
    """Merge, predict and descend with autograd through everything."""
    module = plain_model(base)
    start = {name: p.detach() for name, p in module.named_parameters()}
    ends = [{n: p.detach() for n, p in plain_model(model).named_parameters()} for model in models]
    learned = torch.full((len(models), 3), 1.0 / len(models), requires_grad=True)
    adam = torch.optim.Adam([learned], lr=0.05)
    for step in range(steps):
        weights = {}
        for name, value in start.items():
            row = 0 if "layers.0." in name else 1 if "layers.1." in name else 2
            parts = [learned[n, row] * (end[name] - value) for n, end in enumerate(ends)]
            weights[name] = value + sum(parts)
        window = tokens[step % len(tokens)][None]
        loss = entropy(functional_call(module, weights, kwargs={"input_ids": window}).logits)
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            learned.clamp_(0.0, 1.0)
    return learned.detach()


def test_reference(family, text) -> None:
    models = family.experts[:2]
    tokens = windows_of(family.base, text)
    method = AdaMerging(steps=6, learning_rate=0.05)
    found = learned_coefficients(family.base, models, [tokens, tokens], 2, method)
    expected = naive(family.base, models, tokens, 6)
    assert not torch.allclose(expected, torch.full((2, 3), 0.5), atol=0.05)
    torch.testing.assert_close(found["coefficients"], expected, rtol=0, atol=2e-3)
    assert len(found["entropies"]) == 6


def test_reference_the_merge_is_the_weighted_sum(family, text, tmp_path) -> None:
    """Through the verb: the figure's numbers are the weights of the layers."""
    models = family.experts[:2]
    options = {"base": family.base, "text": [text], "steps": 5, **WINDOWS}
    result = run(models, tmp_path / "out", "adamerging", **options)
    heat, line = result.figures
    assert [series.name for series in heat.series] == ["expert1", "expert2"]
    assert heat.series[0].x == ["layer 0", "layer 1", "outside the layers"]
    assert len(line.series[0].y) == 5
    # Fewer steps than two passes over the windows compare nothing.
    assert not [one for one in result.measurements if one.name.startswith("entropy")]
    found, start, *ends = map(arrays_of, (tmp_path / "out", family.base, *models))
    for name, value in start.items():
        row = layer_row(name, 2)
        parts = [s.y[row] * (e[name] - value) for s, e in zip(heat.series, ends, strict=True)]
        np.testing.assert_allclose(found[name], value + sum(parts), rtol=1e-4, atol=1e-5)
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_limits_without_steps_it_is_the_mean(family, text, tmp_path) -> None:
    options = {"base": family.base, "text": [text], "steps": 0, **WINDOWS}
    result = run(family.experts, tmp_path / "out", "adamerging", **options)
    assert not [one for one in result.measurements if one.name.startswith("entropy")]
    found, *ends = map(arrays_of, (tmp_path / "out", *family.experts))
    for name, value in found.items():
        mean = np.mean([end[name] for end in ends], axis=0)
        np.testing.assert_allclose(value, mean, rtol=1e-4, atol=1e-5)


def test_limits_coefficients_stay_within_their_bounds(family, text) -> None:
    tokens = windows_of(family.base, text)
    method = AdaMerging(steps=8, learning_rate=0.5, start=0.9)
    found = learned_coefficients(family.base, family.experts[:1], [tokens], 2, method)
    values = found["coefficients"]
    assert values.shape == (1, 3)
    assert bool(((values >= 0) & (values <= 1)).all())


class Learned:
    """What is known, from memory."""

    def __init__(self, value: float) -> None:
        self.value = value

    def coefficient(self) -> float:
        return self.value


def test_the_tensor_is_task_arithmetic_with_what_was_learned() -> None:
    models, base = tuned((4, 5), 2, seed=0)
    site = MemorySite(models, base)
    site.knowledge = (Learned(0.25), Learned(0.75))
    expected = merged(TaskArithmetic(weight=(0.25, 0.75)), MemorySite(models, base))
    assert np.array_equal(merged(AdaMerging(), site), expected)


def test_tensors_behind_the_last_layer_count_as_outside() -> None:
    rows = [layer_row(f"model.layers.{n}.mlp.up_proj.weight", 4) for n in (0, 3, 4)]
    assert rows == [0, 3, 4]
    assert layer_row("model.norm.weight", 4) == 4


def test_eyes_keep_the_coefficients_of_the_start(text, tmp_path) -> None:
    base = tiny.build_wrapper("gemma3", tmp_path / "base")
    models = [variant(base, tmp_path / f"m{seed}", seed) for seed in (1, 2)]
    options = {"base": base, "text": [text], "start": 0.25, "steps": 5, **WINDOWS}
    result = run(models, tmp_path / "out", "adamerging", **options)
    assert any("No text runs through 'vision_tower'" in note for note in result.notes)
    found, start, *ends = map(arrays_of, (tmp_path / "out", base, *models))
    for name, value in start.items():
        kept = value + 0.25 * sum(end[name] - value for end in ends)
        is_eye = "language_model" not in name and "lm_head" not in name
        assert np.allclose(found[name], kept, rtol=1e-4, atol=1e-6) == is_eye, name


def test_tokens_are_to_be_numbered_alike(family, text, tmp_path) -> None:
    options = {"base": family.base, "text": [text], "tokenizer": "union", **WINDOWS}
    with pytest.raises(SettingsError, match="leave --tokenizer out"):
        merge(family.experts, tmp_path / "out", "adamerging", **options)


def taught(base: Path, out: Path, tokens: torch.Tensor) -> Path:
    """The base after some steps on a text."""
    module = plain_model(base)
    adam = torch.optim.Adam(module.parameters(), lr=3e-3)
    for step in range(25):
        adam.zero_grad()
        rows = tokens[step % len(tokens)][None]
        module(input_ids=rows, labels=rows).loss.backward()
        adam.step()
    variant(base, out, 0)
    module.save_pretrained(out)
    return out


def test_meaning_who_knows_the_text_gets_more_say_than_noise(llama, text, tmp_path) -> None:
    tokens = windows_of(llama, text)
    pair = [taught(llama, tmp_path / "taught", tokens), variant(llama, tmp_path / "noise", 1, 0.5)]
    options = {"base": llama, "text": [text], **WINDOWS}
    losses = []
    for steps in (0, 30):
        out = tmp_path / f"out{steps}"
        result = run(pair, out, "adamerging", steps=steps, learning_rate=0.03, **options)
        losses.append(float(plain_losses(plain_model(out), tokens).mean()))
    means = [result.measurement(f"mean coefficient of {m.name}").value for m in pair]
    assert means[0] > means[1] + 0.2
    first, last = (result.measurement(f"entropy, {name} pass").value for name in ("first", "last"))
    assert last < first
    assert losses[1] < losses[0] - 0.1
