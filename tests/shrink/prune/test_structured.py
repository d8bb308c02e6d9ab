"""Whole neurons and heads: tensors and config really shrink, and compute the masked dense model."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from naive import all_matrices, config_of, plain_losses, plain_model, tokens_of, weights_of
from products import each_kind, few
from shrink.prune.runs import assert_loads_anywhere, layered_losses, needs_text, run
from treadle.core.checkpoint import CheckpointReader, content_hash, read_manifest
from treadle.core.errors import SettingsError, UnsupportedModelError
from treadle.model import facts, tiny
from treadle.model.load import full
from treadle.shrink.prune import METRICS

MODELS = sorted(facts.ARCHITECTURES)
# Their configs derive a head's width from hidden size / heads.
WITHOUT_HEAD_WIDTH = ("gpt2", "gpt_neox", "opt", "phi")
OF_ONE_NORM = ("olmoe",)
"""Whose heads are normed together."""


def masked_losses(dense: Path, pruned: Path, tokens: torch.Tensor) -> torch.Tensor:
    """What transformers' dense model computes when the removed columns of `down` and `o` are zero.

    Which ones those are is found by matching the surviving columns' values.
    """
    model = plain_model(dense)
    before, after = weights_of(dense), weights_of(pruned)
    stem = facts.facts_of(config_of(dense)).blocks
    for matrix in all_matrices(dense):
        if matrix.role not in ("down", "o"):
            continue
        old, new = before[matrix.name], after[matrix.name]
        kept, place = torch.zeros(old.shape[1], dtype=torch.bool), 0
        for column in range(old.shape[1]):
            if place < new.shape[1] and torch.equal(old[:, column], new[:, place]):
                kept[column], place = True, place + 1
        assert place == new.shape[1], "a column is not one of the dense matrix, in order"
        name = stem.format(layer=matrix.layer) + matrix.parameter
        parameter = model.get_parameter(name).data
        parameter = parameter if matrix.expert is None else parameter[matrix.expert]
        view = parameter.T if matrix.transposed else parameter
        view[:, ~kept] = 0.0
    return plain_losses(model, tokens)


def assert_equals_masked(dense: Path, pruned: Path) -> None:
    tokens = tokens_of(2, 30, seed=4)
    torch.testing.assert_close(
        layered_losses(pruned, tokens), masked_losses(dense, pruned, tokens), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("model_type", each_kind(MODELS))
def test_neurons_shrink_on_every_architecture(
    model_type: str, tiny_model, text: str, tmp_path: Path
) -> None:
    dense = tiny_model(model_type)
    run(dense, tmp_path / "out", "wanda", text, pattern="neurons", sparsity=0.25)
    before, after = weights_of(dense), weights_of(tmp_path / "out")
    for matrix in all_matrices(dense):
        old, new = before[matrix.name].shape, after[matrix.name].shape
        axis = {"down": 1, "gate": 0, "up": 0, "fc": 0}.get(matrix.role)
        expected = list(old)
        if axis is not None:
            kept = old[axis] * 3 // 4
            # Experts keep a multiple of 8: plain transformers' grouped products need it.
            expected[axis] = kept if matrix.expert is None else -(-kept // 8) * 8
        assert list(new) == expected, matrix.name
    assert_equals_masked(dense, tmp_path / "out")
    assert_loads_anywhere(tmp_path / "out")


@pytest.mark.parametrize(
    "model_type",
    each_kind(m for m in MODELS if m not in (*WITHOUT_HEAD_WIDTH, *OF_ONE_NORM)),
)
def test_heads_shrink_where_the_config_can_say_so(
    model_type: str, tiny_model, text: str, tmp_path: Path
) -> None:
    dense = tiny_model(model_type)
    run(dense, tmp_path / "out", "wanda", text, pattern="heads", sparsity=0.5)
    config = config_of(tmp_path / "out")
    assert (config["num_attention_heads"], config["num_key_value_heads"]) == (2, 1)
    assert config["head_dim"] == 16
    assert_equals_masked(dense, tmp_path / "out")
    assert_loads_anywhere(tmp_path / "out")


@pytest.mark.parametrize("model_type", WITHOUT_HEAD_WIDTH)
def test_heads_that_the_config_cannot_say(
    model_type: str, tiny_model, text: str, tmp_path: Path
) -> None:
    dense = tiny_model(model_type)
    settings = {"pattern": "heads", "sparsity": 0.5}
    with pytest.raises(UnsupportedModelError) as caught:
        run(dense, tmp_path / "out", "wanda", text, **settings)
    message = str(caught.value)
    assert f"model_type '{model_type}' cannot say the shapes that pattern heads leaves" in message
    assert "its heads follow from the hidden size" in message
    assert "--allow-nonuniform" in message
    assert not (tmp_path / "out").exists()
    run(dense, tmp_path / "out", "wanda", text, allow_nonuniform=True, **settings)
    assert_refused_elsewhere(tmp_path / "out")
    assert_equals_masked(dense, tmp_path / "out")


@pytest.mark.parametrize("model_type", OF_ONE_NORM)
def test_heads_that_are_normed_together_stay(
    model_type: str, tiny_model, text: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedModelError, match=r"normed together.*such as neurons"):
        run(tiny_model(model_type), tmp_path / "no", "wanda", text, pattern="heads")


def assert_refused_elsewhere(folder: Path) -> None:
    assert config_of(folder)["model_type"] == "treadle_nonuniform"
    for loader in (AutoConfig, AutoModelForCausalLM):
        with pytest.raises((ValueError, KeyError)):
            loader.from_pretrained(folder)
    required = [side.path for side in read_manifest(folder).side_files if side.required]
    assert required == ["config.json"]


@pytest.mark.parametrize("model_type", few(MODELS, "llama", "gpt2", "mixtral", "phi3"))
@pytest.mark.parametrize("pattern", ["neurons", "heads"])
def test_blocks_of_different_widths(
    model_type: str, pattern: str, tiny_model, text: str, tmp_path: Path
) -> None:
    """OWL gives each block its own width; only our loader reads the folder, and reads it right."""
    # Enough neurons and heads that the two blocks' shares round to different numbers.
    sizes = {"num_attention_heads": 8, "num_key_value_heads": 8}
    sizes |= {} if model_type.startswith("gemma") else {"head_dim": 8}
    if model_type in WITHOUT_HEAD_WIDTH or model_type == "mixtral":
        sizes.pop("head_dim", None)
    dense = tiny_model(model_type, **sizes)
    if pattern == "heads" and model_type in OF_ONE_NORM:
        pytest.skip("refused, see below")
    settings = {
        "pattern": pattern,
        "sparsity": 0.5,
        "allocation": {"method": "owl", "span": 0.3, "outlier_multiple": 3.0},
    }
    with pytest.raises(UnsupportedModelError):
        run(dense, tmp_path / "no", "wanda", text, **settings)
    run(dense, tmp_path / "out", "wanda", text, allow_nonuniform=True, **settings)
    role = "down" if pattern == "neurons" else "o"
    after = weights_of(tmp_path / "out")
    widths = {after[m.name].shape[1] for m in all_matrices(tmp_path / "out") if m.role == role}
    assert len(widths) >= 2
    assert_refused_elsewhere(tmp_path / "out")
    assert_equals_masked(dense, tmp_path / "out")
    tokens = tokens_of(2, 20)
    with torch.no_grad():
        whole = full(tmp_path / "out")(input_ids=tokens).logits[:, :-1].transpose(1, 2)
    losses = torch.nn.functional.cross_entropy(whole, tokens[:, 1:], reduction="none")
    torch.testing.assert_close(
        layered_losses(tmp_path / "out", tokens), losses, rtol=1e-4, atol=1e-5
    )


def test_a_nonuniform_folder_can_be_pruned_again(tiny_model, text: str, tmp_path: Path) -> None:
    dense = tiny_model("gpt2")
    first, second, third = (tmp_path / name for name in "abc")
    run(dense, first, "wanda", text, pattern="heads", sparsity=0.5, allow_nonuniform=True)
    run(first, second, "wanda", text, pattern="rows", sparsity=0.5)
    assert_refused_elsewhere(second)
    assert bool(layered_losses(second, tokens_of(1, 8)).isfinite().all())
    # Neurons of one width in all blocks, but heads that the config still cannot say.
    run(first, third, "wanda", text, pattern="neurons", sparsity=0.25, allow_nonuniform=True)
    assert_refused_elsewhere(third)
    assert bool(layered_losses(third, tokens_of(1, 8)).isfinite().all())


@pytest.mark.parametrize("method", few(METRICS.table, "random", "wanda", "sparsegpt"))
@pytest.mark.parametrize("pattern", ["neurons", "heads"])
def test_every_metric_removes_the_lowest_sums(
    method: str, pattern: str, llama: Path, text: str, tmp_path: Path
) -> None:
    given = text if needs_text(method) else None
    run(llama, tmp_path / "out", method, given, pattern=pattern, sparsity=0.5, update="none")
    assert_equals_masked(llama, tmp_path / "out")
    assert_loads_anywhere(tmp_path / "out")
    if method == "magnitude" and pattern == "neurons":
        weights = weights_of(llama)
        for layer in range(2):
            names = [f"model.layers.{layer}.mlp.{part}_proj.weight" for part in ("gate", "up")]
            down = weights[f"model.layers.{layer}.mlp.down_proj.weight"].abs()
            sums = sum(weights[name].abs().sum(dim=1) for name in names) + down.sum(dim=0)
            keep = sums.argsort(stable=True)[48:].sort().values
            after = weights_of(tmp_path / "out")[f"model.layers.{layer}.mlp.down_proj.weight"]
            assert torch.equal(
                after, weights[f"model.layers.{layer}.mlp.down_proj.weight"][:, keep]
            )


def test_an_update_repairs_the_columns_that_stay(llama: Path, text: str, tmp_path: Path) -> None:
    """On the inputs that the first MLP really sees, which neuron pruning leaves as they were."""
    from treadle.model.load import load_tokenizer
    from treadle.model.text import windows

    tokens = windows(text, load_tokenizer(llama), 40, 32).tokens
    dense, seen = plain_model(llama), []
    hook = dense.model.layers[0].mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        dense(input_ids=tokens)
    hook.remove()

    def error(update: str) -> float:
        settings = {"update": update, "num_windows": 40, "sparsity": 0.5}
        run(llama, tmp_path / update, "wanda", text, pattern="neurons", **settings)
        pruned = plain_model(tmp_path / update)
        with torch.no_grad():
            exact, found = (m.model.layers[0].mlp(seen[0]) for m in (dense, pruned))
        return float((exact - found).square().mean())

    assert error("obs") < 0.97 * error("none")


def test_biases_follow_their_rows(tmp_path: Path, text: str) -> None:
    dense = tiny.build("llama", tmp_path / "m", mlp_bias=True, attention_bias=True)
    for pattern in ("neurons", "heads"):
        run(dense, tmp_path / pattern, "wanda", text, pattern=pattern, sparsity=0.5)
        assert_equals_masked(dense, tmp_path / pattern)
        assert_loads_anywhere(tmp_path / pattern)
    with CheckpointReader(tmp_path / "neurons") as reader, CheckpointReader(dense) as before:
        name = "model.layers.0.mlp.{}_proj.bias"
        assert reader.array(name.format("up")).shape == (48,)
        assert np.array_equal(reader.array(name.format("down")), before.array(name.format("down")))


def test_a_mixture_with_a_dense_block(tmp_path: Path, text: str) -> None:
    dense = tiny.build("qwen2_moe", tmp_path / "m", mlp_only_layers=[0])
    run(dense, tmp_path / "out", "wanda", text, pattern="neurons", sparsity=0.5)
    config = config_of(tmp_path / "out")
    keys = ("intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size")
    assert [config[key] for key in keys] == [48, 24, 24]
    assert_equals_masked(dense, tmp_path / "out")
    assert_loads_anywhere(tmp_path / "out")


def test_limits_nothing_to_remove(llama: Path, tmp_path: Path) -> None:
    for pattern in ("neurons", "heads"):
        run(llama, tmp_path / pattern, "magnitude", pattern=pattern, sparsity=0.0)
        assert content_hash(tmp_path / pattern) == content_hash(llama)
        assert_loads_anywhere(tmp_path / pattern)


def test_limits_one_neuron_and_one_head_stay(llama: Path, tmp_path: Path) -> None:
    run(llama, tmp_path / "one", "magnitude", pattern="neurons", sparsity=0.99)
    assert config_of(tmp_path / "one")["intermediate_size"] == 1
    assert_loads_anywhere(tmp_path / "one")
    run(llama, tmp_path / "head", "magnitude", pattern="heads", sparsity=0.99)
    assert config_of(tmp_path / "head")["num_key_value_heads"] == 1
    assert_loads_anywhere(tmp_path / "head")


@pytest.mark.parametrize("pattern", ["neurons", "heads"])
def test_limits_everything(pattern: str, llama: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        run(llama, tmp_path / "out", "magnitude", pattern=pattern, sparsity=1.0)
    assert "sparsity 1.0 would remove all" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_pruning_heads_twice(llama: Path, text: str, tmp_path: Path) -> None:
    """The second run reads the widths that the first one wrote."""
    dense = tiny.build("phi3", tmp_path / "m", num_attention_heads=8, num_key_value_heads=4)
    run(dense, tmp_path / "a", "wanda", text, pattern="heads", sparsity=0.5)
    run(tmp_path / "a", tmp_path / "b", "wanda", text, pattern="heads", sparsity=0.5)
    config = config_of(tmp_path / "b")
    assert (config["num_attention_heads"], config["num_key_value_heads"]) == (2, 1)
    assert_equals_masked(tmp_path / "a", tmp_path / "b")
    assert_loads_anywhere(tmp_path / "b")


def test_meaning_wanda_keeps_the_neurons_that_speak(text: str, tmp_path: Path) -> None:
    """Half of the neurons are almost mute; removing half costs next to nothing."""
    from safetensors.torch import load_file, save_file

    dense = tiny.build("llama", tmp_path / "m")
    tensors = load_file(dense / "model.safetensors")
    for name, tensor in tensors.items():
        if "gate_proj" in name or "up_proj" in name:
            tensor[::2] *= 0.01
    save_file(tensors, dense / "model.safetensors", metadata={"format": "pt"})
    tokens = tokens_of(4, 30)
    base = layered_losses(dense, tokens)
    change = {}
    for method in ("wanda", "random"):
        given = text if method == "wanda" else None
        run(dense, tmp_path / method, method, given, pattern="neurons", sparsity=0.5)
        change[method] = float((layered_losses(tmp_path / method, tokens) - base).abs().mean())
    assert change["wanda"] < 0.1 * change["random"]
    assert json.loads((tmp_path / "wanda" / "config.json").read_text())["intermediate_size"] == 48


def test_numbers_of_heads_that_a_config_refuses_are_refused_before_writing(tiny_model, tmp_path):
    gemma = tiny_model("gemma2", num_attention_heads=8, num_key_value_heads=4)
    with pytest.raises(UnsupportedModelError, match="allow-nonuniform"):
        run(gemma, tmp_path / "out", "magnitude", pattern="heads", sparsity=0.25)
    assert not (tmp_path / "out").exists()
    run(
        gemma,
        tmp_path / "out",
        "magnitude",
        pattern="heads",
        sparsity=0.25,
        allow_nonuniform=True,
    )
    assert layered_losses(tmp_path / "out", tokens_of(1, 16)).isfinite().all()
