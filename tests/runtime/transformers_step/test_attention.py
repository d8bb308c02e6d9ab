"""Paged attention against transformers' own, tree visibility, narrow storage, falling through."""

import numpy as np
import pytest
import torch

from naive import plain_model, tokens_of
from runtime.engines import greedy_ties
from shrink.prune.runs import run
from treadle.model import tiny
from treadle.model.load import full
from treadle.runtime import LLM, SamplingParams
from treadle.runtime.cache.pages import KeyValues
from treadle.runtime.executor import StepRows
from treadle.runtime.transformers_step.generic import GenericExecutor


def ints(*values: int) -> np.ndarray:
    return np.asarray(values, np.int32)


def rows_from(tokens, positions, slots, context, pages, **others) -> StepRows:
    count = len(tokens)
    return StepRows(
        ints(*tokens),
        ints(*positions),
        ints(*slots),
        ints(0, count),
        ints(context),
        ints(0, len(pages)),
        ints(*pages),
        np.arange(count, dtype=np.int32),
        **others,
    )


@pytest.mark.parametrize("architecture", list(tiny.CONFIGS))
def test_own_attention_is_used_without_a_step(tiny_model, architecture):
    """The model that serves can be trained beside: its plain call is what it was."""
    tokens = tokens_of(2, 40)
    model = plain_model(tiny_model(architecture))
    with torch.no_grad():
        before = model(input_ids=tokens).logits
        executor = GenericExecutor(model)
        assert torch.equal(model(input_ids=tokens).logits, before)
    again = GenericExecutor(model)
    assert again.shape == executor.shape


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma2", "gpt2"])
def test_a_tree_equals_its_paths_one_by_one(tiny_model, architecture):
    """A prompt, then a tree: 0 - 1 - 2 and 0 - 3; each row as in a text of its own path."""
    model = plain_model(tiny_model(architecture))
    executor = GenericExecutor(model)
    prompt = tokens_of(1, 30)[0].tolist()
    tree, parents = [11, 12, 13, 14], [None, 0, 1, 0]
    pool = KeyValues(executor.shape.kv_heads, executor.shape.head_dim, 4)
    place = list(range(30))
    pages = [2, 0, 3]
    slots = [pages[i // 16] * 16 + i % 16 for i in range(34)]
    executor.forward(rows_from(prompt, place, slots[:30], 30, pages[:2]), pool)
    paths = []
    for node in range(4):
        path = [node]
        while parents[path[0]] is not None:
            path.insert(0, parents[path[0]])
        paths.append(path)
    bits = np.asarray([[sum(1 << n for n in path)] for path in paths], np.uint64)
    positions = [30 + len(path) - 1 for path in paths]
    step = rows_from(
        tree, positions, slots[30:], 34, pages, prefix_lengths=ints(30), ancestors=bits
    )
    found = executor.forward(step, pool)
    for row, path in zip(found, paths, strict=True):
        text = torch.tensor([prompt + [tree[node] for node in path]])
        with torch.no_grad():
            expected = plain_model(tiny_model(architecture))(input_ids=text).logits[0, -1]
        np.testing.assert_allclose(row, expected.numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("fp32", 0), ("fp16", 1e-3), ("int8", 8e-3), ("int4", 0.14)]
)
def test_stored_values_are_near(llama, dtype, tolerance):
    """Relative to the greatest of a vector; and the positions stand beside."""
    executor = GenericExecutor.from_folder(llama)
    stores = [KeyValues(executor.shape.kv_heads, 16, 3, 16, d) for d in ("fp32", dtype)]
    tokens = tokens_of(1, 20)[0].tolist()
    slots = [16 + i if i < 16 else i - 16 for i in range(20)]
    for store in stores:
        executor.forward(rows_from(tokens, range(20), slots, 20, [1, 0]), store)
    exact, stored = (store.layers[0] for store in stores)
    for name in ("keys", "values"):
        wide = getattr(exact, name)[[1, 0]]
        narrow = getattr(stored, name)[[1, 0]]
        if name == "keys":  # slots lie behind dimensions
            wide, narrow = wide.swapaxes(-1, -2), narrow.swapaxes(-1, -2)
        if dtype == "int4":
            scales = getattr(stored, f"{name[:-1]}_scales")[[1, 0]].view(np.float16)
            low, high = np.moveaxis(scales.reshape(*narrow.shape[:-1], 2), -1, 0)[..., None]
            parts = [((narrow & 15) - 7.5) * low, ((narrow >> 4) - 7.5) * high]
            narrow = np.concatenate(parts, axis=-1)
        narrow = narrow.astype(np.float32)
        if dtype == "int8":
            narrow *= getattr(stored, f"{name[:-1]}_scales")[[1, 0]][..., None]
        bound = np.abs(wide).max(axis=-1, keepdims=True) * tolerance
        assert (np.abs(narrow - wide) <= bound + 1e-7).all()
    assert stored.positions[1, 0].tolist() == list(range(16))
    assert stored.positions[0, 1, :4].tolist() == [16, 17, 18, 19]
    assert not stored.keys[2].any()


def test_pruned_heads_run(tiny_model, text, tmp_path):
    """A non-uniform folder, which foreign loaders refuse: fewer heads in the pool, same answers."""
    folder = tmp_path / "out"
    settings = {"pattern": "heads", "sparsity": 0.5, "allow_nonuniform": True}
    run(tiny_model("gpt2"), folder, "wanda", text, **settings)
    executor = GenericExecutor.from_folder(folder)
    engine = LLM(folder, cache_bytes=2**20, executor=executor)
    assert engine.shape.kv_heads == (2, 2)
    prompt = tokens_of(1, 30)[0].tolist()
    (out,) = engine.generate([prompt], SamplingParams(temperature=0, max_tokens=9, ignore_eos=True))
    greedy_ties(full(folder), prompt, out.outputs[0].token_ids)


@pytest.mark.gpu
@pytest.mark.parametrize("kv_dtype", ["fp32", "int8"])
def test_on_cuda_as_on_the_cpu(llama, kv_dtype):
    params = SamplingParams(temperature=0, max_tokens=16, ignore_eos=True)
    prompts = [tokens_of(1, length)[0].tolist() for length in (3, 40, 60)]
    settings = {"kv_dtype": kv_dtype, "cache_bytes": 2**17, "preemption": "swap"}
    for prompt, out in zip(
        prompts, LLM(llama, device="cuda", **settings).generate(prompts, params), strict=True
    ):
        if kv_dtype == "fp32":
            greedy_ties(plain_model(llama), prompt, out.outputs[0].token_ids)
        assert len(out.outputs[0].token_ids) == 16
