"""Block by block computes what the whole model computes, for every architecture."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from naive import plain_losses, plain_model, tokens_of
from products import each_kind
from treadle.core.checkpoint import CheckpointReader, copy_checkpoint
from treadle.core.errors import SettingsError
from treadle.model import facts, layers, tiny
from treadle.model.layers import LayeredModel
from treadle.model.loss import hidden_states, token_losses
from treadle.model.statistics import collect_gradients

MODELS = sorted(facts.ARCHITECTURES)


def losses_of(folder: Path, *batches: torch.Tensor) -> list[torch.Tensor]:
    with CheckpointReader(folder) as reader:
        return token_losses(LayeredModel(reader), list(batches))


def assert_same(folder: Path, tokens: torch.Tensor, found: torch.Tensor) -> None:
    torch.testing.assert_close(
        found, plain_losses(plain_model(folder), tokens), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("model_type", each_kind(MODELS))
def test_losses_equal_transformers(
    model_type: str, tiny_model, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 5 rows of 40 tokens (longer than the sliding windows of 24), in chunks of 2, 2 and 1 rows.
    monkeypatch.setattr(layers, "_CHUNK_TOKENS", 90)
    tokens = tokens_of(5, 40)
    (found,) = losses_of(tiny_model(model_type), tokens)
    assert_same(tiny_model(model_type), tokens, found)


@pytest.mark.parametrize("model_type", each_kind(MODELS))
def test_a_sharded_bfloat16_checkpoint(model_type: str, tmp_path: Path) -> None:
    # A hidden size whose square root bfloat16 cannot hold: Gemma scales its embedding by it.
    sizes = {"hidden_size": 48, "word_embed_proj_dim": 48} if model_type == "opt" else {}
    folder = tmp_path / "m"
    tiny.model(model_type, **(sizes or {"hidden_size": 48})).bfloat16().save_pretrained(
        folder, max_shard_size="50KB"
    )
    assert len(list(folder.glob("*.safetensors"))) > 2
    tokens = tokens_of(2, 30)
    (found,) = losses_of(folder, tokens)
    assert_same(folder, tokens, found)


def test_batches_of_different_shapes(llama: Path) -> None:
    batches = [tokens_of(3, 17), tokens_of(1, 2, seed=1), tokens_of(4, 17, seed=2)]
    for tokens, found in zip(batches, losses_of(llama, *batches), strict=True):
        assert found.shape == (tokens.shape[0], tokens.shape[1] - 1)
        assert_same(llama, tokens, found)


def test_padding_behind_a_token_does_not_change_its_loss(llama: Path) -> None:
    tokens = tokens_of(2, 20)
    padded = torch.cat([tokens, torch.zeros(2, 7, dtype=torch.int64)], dim=1)
    plain, behind = losses_of(llama, tokens, padded)
    torch.testing.assert_close(behind[:, :19], plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model_type", ["gpt2", "opt"])
@pytest.mark.parametrize("tied", [True, False])
def test_old_names_without_the_models_prefix(
    model_type: str, tied: bool, tiny_model, tmp_path: Path
) -> None:
    """The first GPT-2 and OPT checkpoints on the hub leave `transformer.` or `model.` out."""
    new = tiny_model(model_type, tie_word_embeddings=tied)
    old = tmp_path / "old"
    shutil.copytree(new, old)
    prefix = facts.ARCHITECTURES[model_type].prefix
    tensors = load_file(new / "model.safetensors")
    renamed = {name.removeprefix(prefix): value for name, value in tensors.items()}
    assert renamed.keys() != tensors.keys()
    save_file(renamed, old / "model.safetensors")
    tokens = tokens_of(2, 12)
    (found,) = losses_of(old, tokens)
    assert_same(new, tokens, found)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "qwen2"])
@pytest.mark.parametrize("tied", [True, False])
def test_tied_and_untied_heads(model_type: str, tied: bool, tiny_model) -> None:
    folder = tiny_model(model_type, tie_word_embeddings=tied)
    tokens = tokens_of(2, 12)
    with CheckpointReader(folder) as reader:
        model = LayeredModel(reader)
        (found,) = token_losses(model, [tokens])
        embedding = model._module.get_input_embeddings().weight
        head = model._module.get_output_embeddings().weight
    assert (embedding.data_ptr() == head.data_ptr()) == tied
    assert_same(folder, tokens, found)


def test_a_tied_head_of_an_old_checkpoint_takes_memory_once(tiny_model, tmp_path: Path) -> None:
    new = tiny_model("gpt2")
    shutil.copytree(new, tmp_path / "old")
    tensors = load_file(new / "model.safetensors")
    renamed = {name.removeprefix("transformer."): value for name, value in tensors.items()}
    save_file(renamed, tmp_path / "old" / "model.safetensors")
    with CheckpointReader(tmp_path / "old") as reader:
        module = LayeredModel(reader)._module
    assert module.transformer.wte.weight.data_ptr() == module.lm_head.weight.data_ptr()


def test_a_tied_head_that_is_stored_too(llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(llama, folder)
    tensors = load_file(llama / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    tokens = tokens_of(2, 12)
    (found,) = losses_of(folder, tokens)
    assert_same(llama, tokens, found)


def test_an_old_config_with_rope_theta_at_the_top(tiny_model, tmp_path: Path) -> None:
    """Configs of transformers 4, and the packaged model's, state rope_theta itself."""
    new = tiny_model("llama", rope_parameters={"rope_theta": 300.0, "rope_type": "default"})
    config = json.loads((new / "config.json").read_text())
    assert config.pop("rope_parameters")["rope_theta"] == 300.0
    old = tmp_path / "old"
    shutil.copytree(new, old)
    (old / "config.json").write_text(json.dumps({**config, "rope_theta": 300.0}))
    tokens = tokens_of(2, 40)
    (found,) = losses_of(old, tokens)
    assert_same(new, tokens, found)
    (default,) = losses_of(tiny_model("llama"), tokens)
    assert not torch.allclose(found, default, rtol=1e-3), "the case must feel rope_theta"


def test_only_one_block_is_in_memory(llama: Path) -> None:
    with CheckpointReader(llama) as reader:
        model = LayeredModel(reader)

        def in_memory() -> list[bool]:
            return [any(not p.is_meta for p in block.parameters()) for block in model._blocks]

        assert in_memory() == [False, False]
        with model.block(1):
            assert in_memory() == [False, True]
        assert in_memory() == [False, False]


def test_a_view_writes_through(tiny_model) -> None:
    """The views of fused, transposed and expert matrices are the module's own numbers."""
    for model_type in ("phi3", "gpt2", "qwen2_moe"):
        with CheckpointReader(tiny_model(model_type)) as reader:
            model = LayeredModel(reader)
            hidden = model.embed(tokens_of(2, 8))
            with model.block(0) as block:
                before = model.forward(block, 0, hidden).clone()
                for matrix in block.matrices:
                    block.view(matrix).zero_()
                after = model.forward(block, 0, hidden)
        assert not torch.equal(before, hidden)
        # Without its matrices a block adds at most its biases: the same for every token.
        added = (after - hidden).reshape(-1, hidden.shape[-1])
        torch.testing.assert_close(added, added[:1].expand_as(added), atol=1e-4, rtol=1e-4)


def test_hidden_states_do_not_depend_on_the_chunks(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = tokens_of(7, 16)
    found = []
    for chunk_tokens in (16, 50, 10_000):
        monkeypatch.setattr(layers, "_CHUNK_TOKENS", chunk_tokens)
        with CheckpointReader(llama) as reader:
            found += hidden_states(LayeredModel(reader), [tokens])
    torch.testing.assert_close(found[0], found[2], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[1], found[2], rtol=1e-5, atol=1e-5)


def test_a_copy_in_float16_computes_nearly_the_same(llama: Path, tmp_path: Path) -> None:
    half = copy_checkpoint(llama, tmp_path / "half", dtype="float16").folder
    tokens = tokens_of(2, 12)
    (mine,) = losses_of(half, tokens)
    assert_same(half, tokens, mine)


@pytest.mark.parametrize("model_type", ["gpt2", "opt"])
def test_windows_longer_than_the_table_of_positions(model_type: str, tiny_model) -> None:
    folder, tokens = tiny_model(model_type), tokens_of(1, 129)
    assert bool(losses_of(folder, tokens[:, :128])[0].isfinite().all())
    for compute in (losses_of, collect_gradients):
        with pytest.raises(SettingsError) as caught:
            compute(folder, tokens)
        assert str(caught.value) == (
            "A window of 129 tokens does not fit a model of 128 positions; use shorter windows."
        )
