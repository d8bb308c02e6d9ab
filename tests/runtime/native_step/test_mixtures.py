"""Mixtures of experts in the native step: what is chosen, how rows are grouped, what is counted."""

import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from naive import plain_model, tokens_of
from runtime.adapters import write_adapter
from runtime.flat import pool_of, rows_of
from runtime.native_step.variants import build
from treadle.core.errors import CheckpointError
from treadle.model.adapters import Adapter
from treadle.native.loader import library
from treadle.runtime.choice import choose_executor
from treadle.runtime.native_step.llama import LlamaStep

pytestmark = pytest.mark.skipif(library("step") is None, reason="needs a C compiler")
MANY = "qwen3_moe"
"""16 experts, of which a token meets 4."""


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    return build(MANY, tmp_path_factory.mktemp("many"))


def logits(folder: Path, parts, form="fp32", threads=2) -> np.ndarray:
    step = LlamaStep(folder, form, threads)
    found = step.forward(rows_of(parts), pool_of(step, num_slots=1024))
    step.close()
    return found


def changed(folder: Path, target: Path, change) -> Path:
    shutil.copytree(folder, target)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, target / "model.safetensors", {"format": "pt"})
    return target


@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe", "olmoe"])
def test_experts_apart_and_stacked_are_the_same_bits(name, tmp_path):
    apart, stacked = (build(name, tmp_path / n, n == "stacked") for n in ("apart", "stacked"))
    names = [set(load_file(folder / "model.safetensors")) for folder in (apart, stacked)]
    assert len(names[0]) > len(names[1])
    parts = [(tokens_of(1, 40)[0].tolist(), 0, list(range(5)))]
    for form in ("fp32", "q4_1"):
        assert np.array_equal(logits(apart, parts, form), logits(stacked, parts, form))


@pytest.mark.parametrize("threads", [1, 3])
def test_more_rows_than_are_routed_together(threads, many):
    prompts = [tokens_of(1, 100 + place, seed=place)[0].tolist() for place in range(7)]
    tables = [list(range(14 * place, 14 * place + 14)) for place in range(7)]
    parts = [(prompt, 0, table) for prompt, table in zip(prompts, tables, strict=True)]
    together = logits(many, parts, threads=threads)
    assert len(together) > 512
    alone = np.concatenate([logits(many, [part], threads=1) for part in parts])
    assert np.array_equal(together, alone)


def test_of_experts_as_likely_as_each_other_the_first_are_met(many, tmp_path):
    """All are equally likely: what the last twelve compute changes nothing, the fourth does."""

    def even(weights) -> None:
        for name, values in weights.items():
            if name.endswith("mlp.gate.weight"):
                values[:] = 0

    def damaged(first):
        def change(weights) -> None:
            even(weights)
            for name, values in weights.items():
                if ".experts." in name and int(name.split(".experts.")[1].split(".")[0]) >= first:
                    values[:] = 7

        return change

    parts = [(tokens_of(1, 20)[0].tolist(), 0, [0, 1, 2])]
    right = logits(changed(many, tmp_path / "even", even), parts)
    assert np.array_equal(logits(changed(many, tmp_path / "four", damaged(4)), parts), right)
    assert not np.array_equal(logits(changed(many, tmp_path / "three", damaged(3)), parts), right)


def test_one_choice_and_all_of_them_equal_transformers(tiny_model):
    for top_k in (1, 4):
        folder = tiny_model("qwen2_moe", num_experts_per_tok=top_k)
        tokens = tokens_of(1, 30)[0].tolist()
        with torch.no_grad():
            right = plain_model(folder)(input_ids=torch.tensor([tokens])).logits[0].numpy()
        found = logits(folder, [(tokens, 0, [0, 1, 2, 3])])
        np.testing.assert_allclose(found, right, atol=1e-4)


def test_a_token_reads_the_experts_that_it_meets(tiny_model):
    sizes = []
    for top_k in (1, 2, 4):
        step = LlamaStep(tiny_model("qwen3_moe", num_experts_per_tok=top_k), "fp32", 1)
        sizes.append((step.num_weights, step.weight_bytes))
        step.close()
    expert = 2 * 3 * 48 * 64
    assert [b[0] - a[0] for a, b in pairwise(sizes)] == [expert, 2 * expert]
    assert sizes[1][1] - sizes[0][1] == 4 * expert


@pytest.mark.parametrize("form", ["fp32", "fp16", "q8"])
def test_a_mixture_gets_the_native_step_in_every_form(form, many):
    executor = choose_executor(many, form)
    assert isinstance(executor, LlamaStep)
    executor.close()


def test_adapters_on_experts_are_refused(many, tmp_path):
    name = "model.layers.0.mlp.experts.3.up_proj"
    adapter = write_adapter(tmp_path / "adapter", many, [name])
    step = LlamaStep(many, "fp32", 1)
    with pytest.raises(CheckpointError, match=rf"changes '{name}.*merge the adapter into it"):
        step.add_adapter(0, Adapter(adapter))
    step.close()
