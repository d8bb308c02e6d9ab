"""Every method on one architecture, every architecture with one method, the axes crossed."""

from pathlib import Path

import numpy as np
import pytest
import torch

from naive import files_of, num_threads, tokens_of, weights_of
from products import each_kind, few, pairwise
from shrink.prune.runs import (
    assert_loads_anywhere,
    assert_sparsity,
    layered_losses,
    needs_text,
    run,
    zeros_of,
)
from treadle.core.checkpoint import CheckpointReader, content_hash, read_manifest
from treadle.core.errors import SettingsError
from treadle.core.method import Control, Paper, Standard
from treadle.core.result import read_result
from treadle.model import facts, tiny
from treadle.shrink.prune import ALLOCATIONS, METRICS, UPDATES
from treadle.shrink.prune.request import MODES

MODELS = sorted(facts.ARCHITECTURES)


@pytest.mark.parametrize("table", [METRICS, UPDATES, ALLOCATIONS], ids=lambda t: t.axis)
def test_the_table_names_its_methods(table) -> None:
    for name in table.table:
        cls = table[name]
        assert cls.name == name
        assert isinstance(cls.paper, Paper | Standard | Control)
        if isinstance(cls.paper, Paper):
            assert cls.paper.url.startswith("https://")
            assert 1980 < cls.paper.year <= 2026
        assert cls.summary().endswith(".")
        for field in cls.model_fields.values():
            assert field.description, "each setting needs a line of help"


@pytest.mark.parametrize("method", METRICS.table)
@pytest.mark.parametrize(("pattern", "sparsity"), [("rows", 0.3), ("2:4", 0.5)])
def test_every_metric_on_llama(
    method: str, pattern: str, sparsity: float, llama: Path, text: str, tmp_path: Path
) -> None:
    before = files_of(llama)
    given = text if needs_text(method) else None
    result = run(llama, tmp_path / "out", method, given, pattern=pattern, sparsity=sparsity)
    assert files_of(llama) == before
    assert_sparsity(tmp_path / "out", pattern, sparsity)
    found = assert_loads_anywhere(tmp_path / "out")
    assert not torch.allclose(found, layered_losses(llama, tokens_of(2, 24, seed=9)), rtol=1e-3)
    # The account.
    assert read_result(tmp_path / "out") == result
    every = np.concatenate([zero.flatten() for zero in zeros_of(tmp_path / "out").values()])
    assert result.measurement("sparsity").value == pytest.approx(every.mean())
    assert result.method == method
    manifest = read_manifest(tmp_path / "out")
    assert manifest.content_hash == content_hash(tmp_path / "out")
    assert manifest.provenance.parents[0].content_hash == content_hash(llama)
    assert [side.required for side in manifest.side_files] == [False]
    # Untouched: everything outside the blocks' matrices.
    with CheckpointReader(llama) as old, CheckpointReader(tmp_path / "out") as new:
        assert list(old.tensors) == list(new.tensors)
        for name in old.tensors:
            if "proj" not in name:
                assert np.array_equal(old.array(name), new.array(name)), name


def assert_equal_but_for_rounding(left: Path, right: Path) -> None:
    """Masks differ in at most one weight in a thousand; where they do not, values are close."""
    other = weights_of(right)
    for name, weight in weights_of(left).items():
        same = (weight == 0) == (other[name] == 0)
        assert float(same.double().mean()) > 0.999, name
        rows = same.all(dim=1)
        torch.testing.assert_close(weight[rows], other[name][rows], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", few(METRICS.table, "random", "magnitude", "sparsegpt"))
def test_the_same_seed_gives_the_same_bytes(
    method: str, llama: Path, text: str, tmp_path: Path
) -> None:
    given = text if needs_text(method) else None
    hashes = []
    for place, (threads, seed) in enumerate([(1, 3), (2, 3), (1, 4)]):
        with num_threads(threads):
            run(llama, tmp_path / str(place), method, given, sparsity=0.4, seed=seed)
        hashes.append(content_hash(tmp_path / str(place)))
    run(llama, tmp_path / "again", method, given, sparsity=0.4, seed=3)
    assert content_hash(tmp_path / "again") == hashes[0]
    if method == "sparsegpt":
        # Its matrix products add up in an order that depends on the threads: equal up to ties.
        assert_equal_but_for_rounding(tmp_path / "0", tmp_path / "1")
    else:
        assert hashes[0] == hashes[1], "the number of threads must not matter"
    if given is None and method != "random":
        assert hashes[0] == hashes[2], "without text there is nothing to draw"
    else:
        assert hashes[0] != hashes[2], "the seed draws windows or scores"


@pytest.mark.parametrize("name", [*METRICS.table, *UPDATES.table, *ALLOCATIONS.table])
def test_settings_round_trip(name: str) -> None:
    table = next(t for t in (METRICS, UPDATES, ALLOCATIONS) if name in t.table)
    method = table.resolve(name)
    assert table.resolve(method.settings()) == method
    changed = {
        key: field.default / 2
        for key, field in type(method).model_fields.items()
        if isinstance(field.default, float)
    }
    other = type(method)(**changed)
    assert table.resolve(other.settings()) == other
    assert (other == method) == (not changed)


@pytest.mark.parametrize("model_type", each_kind(MODELS))
def test_wanda_on_every_architecture(
    model_type: str, tiny_model, text: str, tmp_path: Path
) -> None:
    """In the paper's orientation: each output row of every slice, transposed or not, loses half."""
    folder = tiny_model(model_type)
    run(folder, tmp_path / "out", "wanda", text, sparsity=0.5)
    assert_sparsity(tmp_path / "out", "rows", 0.5)
    assert_loads_anywhere(tmp_path / "out")
    before, after = weights_of(folder), weights_of(tmp_path / "out")
    for name, weight in after.items():
        kept = weight != 0
        assert torch.equal(weight[kept], before[name][kept]), "survivors keep their values"


@pytest.mark.parametrize("model_type", each_kind(MODELS))
def test_sparsegpt_on_every_architecture(
    model_type: str, tiny_model, text: str, tmp_path: Path
) -> None:
    folder = tiny_model(model_type)
    run(folder, tmp_path / "out", "sparsegpt", text, pattern="2:4")
    assert_sparsity(tmp_path / "out", "2:4", 0.5)
    assert_loads_anywhere(tmp_path / "out")


@pytest.mark.parametrize("model_type", ["phi3", "gpt2", "qwen2_moe", "gpt_neox"])
def test_pruner_zero_on_fused_matrices(
    model_type: str, tiny_model, text: str, tmp_path: Path
) -> None:
    """Gradients of slices and experts belong to the right slices and experts."""
    from naive import plain_model
    from treadle.model.load import load_tokenizer
    from treadle.model.text import sampled_windows

    folder = tiny_model(model_type)
    run(folder, tmp_path / "out", "pruner_zero", text, sparsity=0.5)
    assert_sparsity(tmp_path / "out", "rows", 0.5)
    # The first query matrix once more, from autograd on transformers' model.
    tokens = sampled_windows(text, load_tokenizer(folder), 3, 32, 0).tokens
    model, total = plain_model(folder), 0.0
    first = next(iter(weights_of(folder)))
    parameter = model.get_parameter(first.split("[")[0])
    for row in tokens:
        model.zero_grad()
        model(input_ids=row[None], labels=row[None]).loss.backward()
        total = total + parameter.grad.double() ** 2
    gradient = total.sqrt().T if model_type == "gpt2" else total.sqrt()
    weight = weights_of(folder)[first]
    gradient = gradient[: weight.shape[0]]
    score = weight.double() ** 2 * (gradient - gradient.min())
    expected = score.argsort(dim=1, stable=True).argsort(dim=1) >= weight.shape[1] // 2
    agreement = ((weights_of(tmp_path / "out")[first] != 0) == expected).double().mean()
    assert float(agreement) > 0.999


AXES = pairwise(
    ["rows", "tensor", "global", "2:4", "neurons", "heads"],
    UPDATES.table,
    ALLOCATIONS.table,
    MODES,
)


@pytest.mark.parametrize(("pattern", "update", "allocation", "calibrate"), AXES)
def test_the_axes_crossed(
    pattern: str,
    update: str,
    allocation: str,
    calibrate: str,
    llama: Path,
    text: str,
    tmp_path: Path,
) -> None:
    settings = {
        "pattern": pattern,
        "update": update,
        "allocation": allocation,
        "calibrate": calibrate,
        "allow_nonuniform": True,
    }
    refused = (allocation != "uniform" and pattern in ("2:4", "global")) or (
        pattern == "global" and calibrate in ("one-pass", "two-pass")
    )
    if refused:
        with pytest.raises(SettingsError):
            run(llama, tmp_path / "out", "wanda", text, **settings)
        assert not list(tmp_path.iterdir())
        return
    result = run(llama, tmp_path / "out", "wanda", text, **settings)
    assert not [p.name for p in tmp_path.iterdir() if p.name != "out"], "nothing is left beside"
    found = layered_losses(tmp_path / "out", tokens_of(2, 24, seed=9))
    assert bool(found.isfinite().all())
    assert not torch.allclose(found, layered_losses(llama, tokens_of(2, 24, seed=9)), rtol=1e-3)
    if pattern not in ("neurons", "heads") and allocation == "uniform":
        assert_sparsity(tmp_path / "out", pattern, 0.5)
    if allocation == "owl" and pattern in ("rows", "tensor"):
        by_block = result.figures[0].series[0].y
        assert by_block[0] != by_block[1]
        assert sum(by_block) / 2 == pytest.approx(0.5, abs=0.02)


def test_the_modes_see_different_activations(llama: Path, text: str, tmp_path: Path) -> None:
    """They agree on the first input of all, and part where something before it was pruned."""
    for mode in MODES:
        run(llama, tmp_path / mode, "wanda", text, calibrate=mode, sparsity=0.5)
    masks = {mode: zeros_of(tmp_path / mode) for mode in MODES}
    first = "model.layers.0.self_attn.q_proj.weight"
    for mode in MODES:
        assert np.array_equal(masks[mode][first], masks["dense"][first]), "the first input is one"
    last = "model.layers.1.mlp.down_proj.weight"
    for left, right in (("one-pass", "two-pass"), ("two-pass", "dense")):
        assert not np.array_equal(masks[left][last], masks[right][last])


def test_wanda_prunes_by_the_inputs_of_the_pruned_model(
    llama: Path, text: str, tmp_path: Path
) -> None:
    """Two passes: block 1's statistics are hooks' on a model whose block 0 is the pruned one."""
    from naive import plain_model
    from treadle.model.load import load_tokenizer
    from treadle.model.text import sampled_windows

    run(llama, tmp_path / "out", "wanda", text, calibrate="two-pass", sparsity=0.5)
    model, pruned = plain_model(llama), plain_model(tmp_path / "out")
    model.model.layers[0] = pruned.model.layers[0]
    seen = []
    model.model.layers[1].mlp.down_proj.register_forward_pre_hook(
        lambda _, args: seen.append(args[0].reshape(-1, 96).double())
    )
    tokens = sampled_windows(text, load_tokenizer(llama), 3, 32, 0).tokens
    with torch.no_grad():
        model(input_ids=tokens)
    weight = model.model.layers[1].mlp.down_proj.weight.detach().double()
    score = weight.abs() * torch.cat(seen).square().sum(dim=0).sqrt()
    keep = score.argsort(dim=1).argsort(dim=1) >= 48
    assert torch.equal(pruned.model.layers[1].mlp.down_proj.weight != 0, keep)


def test_dense_statistics_are_collected_once(
    llama: Path, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from treadle.model import kept

    monkeypatch.setenv("TREADLE_CACHE", str(tmp_path / "cache"))
    run(llama, tmp_path / "a", "wanda", text, calibrate="dense", sparsity=0.5)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("collected again")

    monkeypatch.setattr(kept, "collect_block", never)
    run(llama, tmp_path / "b", "ria", text, calibrate="dense", sparsity=0.5)
    run(llama, tmp_path / "c", "wanda", text, calibrate="dense", sparsity=0.5)
    assert content_hash(tmp_path / "a") == content_hash(tmp_path / "c")
    with pytest.raises(AssertionError, match="collected again"):
        run(llama, tmp_path / "d", "wanda", text, calibrate="dense", num_windows=2)


def test_dense_statistics_belong_to_the_config_too(text: str, tmp_path: Path) -> None:
    """The same weights under another rope base compute other activations."""
    theta = {"rope_type": "default"}
    one = tiny.build("llama", tmp_path / "1", rope_parameters={**theta, "rope_theta": 1e4})
    two = tiny.build("llama", tmp_path / "2", rope_parameters={**theta, "rope_theta": 5.0})
    assert content_hash(one) == content_hash(two)
    run(one, tmp_path / "out1", "wanda", text, calibrate="dense", sparsity=0.5)
    run(two, tmp_path / "out2", "wanda", text, calibrate="dense", sparsity=0.5)
    assert content_hash(tmp_path / "out1") != content_hash(tmp_path / "out2")


def test_a_bfloat16_model_stays_one(text: str, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    tiny.model("llama").bfloat16().save_pretrained(folder, max_shard_size="60KB")
    tiny.tokenizer(folder)
    run(folder, tmp_path / "out", "sparsegpt", text, sparsity=0.5)
    assert_sparsity(tmp_path / "out", "rows", 0.5)
    with CheckpointReader(tmp_path / "out") as reader:
        assert {info.dtype for info in reader.tensors.values()} == {"BF16"}
    assert_loads_anywhere(tmp_path / "out")


def test_a_method_by_name(llama: Path, tmp_path: Path) -> None:
    from treadle import prune

    prune(llama, tmp_path / "out", "magnitude", sparsity=0.25)
    assert_sparsity(tmp_path / "out", "rows", 0.25)


@pytest.mark.parametrize("pattern", ["rows", "tensor", "global"])
def test_limits_sparsity_zero_and_one(pattern: str, llama: Path, tmp_path: Path) -> None:
    run(llama, tmp_path / "zero", "magnitude", pattern=pattern, sparsity=0.0)
    assert content_hash(tmp_path / "zero") == content_hash(llama)
    run(llama, tmp_path / "one", "magnitude", pattern=pattern, sparsity=1.0)
    assert all(zero.all() for zero in zeros_of(tmp_path / "one").values())
    assert_loads_anywhere(tmp_path / "one")


@pytest.mark.parametrize("method", ["wanda", "sparsegpt", "gblm"])
def test_limits_one_window_of_two_tokens_and_one_head(
    method: str, text: str, tmp_path: Path
) -> None:
    folder = tiny.build(
        "llama", tmp_path / "m", num_attention_heads=1, num_key_value_heads=1, num_hidden_layers=1
    )
    run(folder, tmp_path / "out", method, text, sparsity=0.5, num_windows=1, window_tokens=2)
    assert_sparsity(tmp_path / "out", "rows", 0.5)
    assert_loads_anywhere(tmp_path / "out")


def test_limits_ties_go_from_the_left_on_the_whole_way(llama: Path, tmp_path: Path) -> None:
    """All weights of one size: the lower half of each row's columns goes."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "m"
    tiny.build("llama", folder)
    tensors = load_file(folder / "model.safetensors")
    signs = {n: t.sign() if "proj" in n else t for n, t in tensors.items()}
    save_file(signs, folder / "model.safetensors", metadata={"format": "pt"})
    run(folder, tmp_path / "out", "magnitude", sparsity=0.5)
    for zero in zeros_of(tmp_path / "out").values():
        half = zero.shape[1] // 2
        assert zero[:, :half].all()
        assert not zero[:, half:].any()
