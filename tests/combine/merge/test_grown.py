"""Adapters that were trained with tokens of their own: the output has them, and their tokenizer."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from treadle.combine.merge import merge
from treadle.core.checkpoint import CheckpointReader
from treadle.core.errors import CheckpointError
from treadle.model import tiny
from treadle.runtime import LLM

NUM_NEW = 3


def grown(folder: Path, base: Path, *, saved: tuple[str, ...], has_tokens: bool = True) -> Path:
    """Write an adapter as peft does after `resize_token_embeddings`, with nothing but the rows."""
    module = AutoModelForCausalLM.from_pretrained(base)
    num_rows = module.get_input_embeddings().weight.shape[0] + NUM_NEW
    draw = np.random.default_rng(3)
    rows = {
        name: draw.normal(size=(num_rows, 64)).astype(np.float32)
        for name in ("model.embed_tokens", "lm_head")
    }
    if module.config.tie_word_embeddings:
        rows["lm_head"] = rows["model.embed_tokens"]
    factors = {
        f"base_model.model.model.layers.0.mlp.up_proj.lora_{letter}.weight": draw.normal(
            size=(4, 64) if letter == "A" else (96, 4)
        ).astype(np.float32)
        for letter in "AB"
    }
    folder.mkdir()
    whole = {f"base_model.model.{name}.weight": rows[name] for name in saved}
    save_file({**factors, **whole}, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    if has_tokens:
        tokenizer = AutoTokenizer.from_pretrained(base)
        tokenizer.add_tokens([f"<new{place}>" for place in range(NUM_NEW)])
        tokenizer.save_pretrained(folder)
    return folder


BOTH = ("model.embed_tokens", "lm_head")


@pytest.mark.parametrize(("is_tied", "saved"), [(True, BOTH), (True, BOTH[:1]), (False, BOTH)])
def test_the_output_has_the_tokens(is_tied: bool, saved: tuple[str, ...], tmp_path: Path) -> None:
    base = tiny.build("llama", tmp_path / "base", tie_word_embeddings=is_tied)
    adapter = grown(tmp_path / "lora", base, saved=saved)
    out = tmp_path / "out"
    result = merge([f"{base}+{adapter}"], out, "passthrough")
    assert any("a vocabulary of 323 rows of its own" in note for note in result.notes)
    module = AutoModelForCausalLM.from_pretrained(out)
    assert module.config.vocab_size == 323
    assert module.config.tie_word_embeddings is is_tied
    written = torch.from_numpy(np.array(_tensor(adapter, "model.embed_tokens")))
    torch.testing.assert_close(module.get_input_embeddings().weight.data, written)
    head = written if is_tied else torch.from_numpy(np.array(_tensor(adapter, "lm_head")))
    torch.testing.assert_close(module.get_output_embeddings().weight.data, head)
    tokenizer = AutoTokenizer.from_pretrained(out)
    ids = tokenizer("<new2>").input_ids
    assert ids == [AutoTokenizer.from_pretrained(adapter).convert_tokens_to_ids("<new2>")]
    assert LLM(out).generate(["<new1> a"])[0].outputs[0].token_ids


def test_a_merge_with_the_base_keeps_the_new_tokens(tmp_path: Path) -> None:
    base = tiny.build("llama", tmp_path / "base")
    adapter = grown(tmp_path / "lora", base, saved=BOTH)
    pair = [base, f"{base}+{adapter}"]
    with pytest.raises(CheckpointError, match=r"320 rows of embeddings .* 323; give --tokenizer u"):
        merge(pair, tmp_path / "out", "linear")
    merge(pair, tmp_path / "out", "linear", tokenizer="union")
    rows = AutoModelForCausalLM.from_pretrained(tmp_path / "out").get_input_embeddings().weight
    new = AutoTokenizer.from_pretrained(tmp_path / "out").convert_tokens_to_ids("<new1>")
    theirs = AutoTokenizer.from_pretrained(adapter).convert_tokens_to_ids("<new1>")
    np.testing.assert_allclose(rows[new].detach(), _tensor(adapter, BOTH[0])[theirs], atol=1e-6)


def test_without_a_tokenizer_of_its_own(tmp_path: Path) -> None:
    base = tiny.build("llama", tmp_path / "base")
    adapter = grown(tmp_path / "lora", base, saved=BOTH, has_tokens=False)
    result = merge([f"{base}+{adapter}"], tmp_path / "out", "passthrough")
    assert any("as it brings none" in note for note in result.notes)
    module = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert module.get_input_embeddings().weight.shape == (323, 64)


def test_rows_of_the_head_alone_are_refused(tmp_path: Path) -> None:
    base = tiny.build("llama", tmp_path / "base", tie_word_embeddings=False)
    for saved in (BOTH[:1], BOTH[1:]):
        adapter = grown(tmp_path / "lora", base, saved=saved)
        with pytest.raises(CheckpointError, match=r"323 rows and .* 320, .*save_embedding_layers="):
            merge([f"{base}+{adapter}"], tmp_path / "out", "passthrough")
        shutil.rmtree(adapter)


def _tensor(adapter: Path, name: str) -> np.ndarray:
    return load_file(adapter / "adapter_model.safetensors")[f"base_model.model.{name}.weight"]


def test_the_bias_of_a_head_follows_its_tokens(tmp_path: Path) -> None:
    """phi has one: under a union each number goes where the token's row goes."""
    pair = [tiny.build("phi", tmp_path / f"m{seed}", seed) for seed in (0, 1)]
    vocabulary = json.loads((pair[1] / "tokenizer.json").read_text())
    words = vocabulary["model"]["vocab"]
    first, second = sorted(words, key=words.__getitem__)[5:7]
    words[first], words[second] = words[second], words[first]
    (pair[1] / "tokenizer.json").write_text(json.dumps(vocabulary))
    merge(pair, tmp_path / "out", "linear", tokenizer="union")
    ours, theirs, found = (_bias(folder) for folder in (*pair, tmp_path / "out"))
    moved = theirs.copy()
    moved[[5, 6]] = moved[[6, 5]]
    np.testing.assert_allclose(found, (ours + moved) / 2, atol=1e-6)


def _bias(folder: Path) -> np.ndarray:
    with CheckpointReader(folder) as reader:
        return reader.array("lm_head.bias").astype(np.float32)


def test_a_product_beside_grown_rows_is_the_embeddings_alone(tmp_path: Path) -> None:
    """As peft computes it: the head keeps the rows below the product, so both are stored."""
    base = tiny.build("llama", tmp_path / "base", tie_word_embeddings=True)
    draw = np.random.default_rng(2)
    rows = draw.normal(size=(323, 64)).astype(np.float32)
    first, second = (draw.normal(size=s).astype(np.float32) for s in ((4, 323), (64, 4)))
    stem = "base_model.model.model.embed_tokens"
    (tmp_path / "lora").mkdir()
    save_file(
        {
            f"{stem}.base_layer.weight": rows,
            f"{stem}.lora_embedding_A": first,
            f"{stem}.lora_embedding_B": second,
        },
        tmp_path / "lora" / "adapter_model.safetensors",
    )
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8}
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(settings))
    merge([f"{base}+{tmp_path / 'lora'}"], tmp_path / "out", "passthrough")
    module = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    head, embedding = module.get_output_embeddings(), module.get_input_embeddings()
    torch.testing.assert_close(head.weight.data, torch.from_numpy(rows))
    expected = torch.from_numpy(rows + 2 * (second @ first).T)
    torch.testing.assert_close(embedding.weight.data, expected, rtol=1e-5, atol=1e-5)


def test_modules_that_peft_writes_three_times(tmp_path: Path) -> None:
    """Plain names are those that it reads; the others are its own copies."""
    base = tiny.build("llama", tmp_path / "base", tie_word_embeddings=False)
    adapter = grown(tmp_path / "lora", base, saved=BOTH)
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    for name in BOTH:
        stem = f"base_model.model.{name}"
        tensors[f"{stem}.modules_to_save.weight"] = np.zeros((323, 64), np.float32)
        tensors[f"{stem}.original_module.weight"] = np.ones((320, 64), np.float32)
    save_file(tensors, file)
    merge([f"{base}+{adapter}"], tmp_path / "out", "passthrough")
    with CheckpointReader(tmp_path / "out") as reader:
        for name in BOTH:
            assert np.array_equal(reader.array(f"{name}.weight"), _tensor(adapter, name))
