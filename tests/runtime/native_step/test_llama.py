"""The native step against transformers, row by row."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from naive import plain_model, tokens_of
from runtime.flat import PAGE, ints, pool_of, rows_of
from treadle.core.cache import cache_folder
from treadle.core.checkpoint import CheckpointReader
from treadle.core.errors import SettingsError, UnsupportedModelError
from treadle.model import tiny
from treadle.model.load import full
from treadle.native.loader import library
from treadle.runtime.executor import StepRows
from treadle.runtime.linear.packed import PackedLayout, Room, pack
from treadle.runtime.native_step.llama import LLAMA_LIKE, LlamaStep
from treadle.shrink.prune import prune

PAGES = 16
NATIVE = library("step") is not None
pytestmark = pytest.mark.skipif(not NATIVE, reason="needs a C compiler")


def logits_of(folder: Path, tokens) -> np.ndarray:
    with torch.no_grad():
        return plain_model(folder)(input_ids=torch.tensor([list(tokens)])).logits[0].numpy()


@pytest.fixture(scope="module")
def step(llama):
    made = LlamaStep(llama, "fp32", 1)
    yield made
    made.close()


@pytest.mark.parametrize("model_type", LLAMA_LIKE)
@pytest.mark.parametrize("threads", [1, 2])
def test_every_architecture_equals_transformers(model_type, threads, tiny_model):
    folder, tokens = tiny_model(model_type), tokens_of(1, 60)[0].tolist()
    step = LlamaStep(folder, "fp32", threads)
    table = list(range(7, -1, -1))
    found = step.forward(rows_of([(tokens, 0, table)]), pool_of(step))
    np.testing.assert_allclose(found, logits_of(folder, tokens), atol=1e-3)
    assert step.num_threads == threads
    hidden = step.hidden(rows_of([(tokens, 0, table)], wanted=[59]), pool_of(step))
    model = plain_model(folder)
    with torch.no_grad():
        expected = model.base_model(input_ids=torch.tensor([tokens])).last_hidden_state[0, -1]
    np.testing.assert_allclose(hidden[0], expected.numpy(), atol=1e-3)
    step.close()


@pytest.mark.parametrize(
    "overrides",
    [
        {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 20},
        {"hidden_size": 72, "intermediate_size": 100, "head_dim": 18},
        {"tie_word_embeddings": False, "rope_theta": 5e5},
        {"attention_bias": True, "mlp_bias": True},
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    ],
    ids=lambda o: "-".join(o),
)
def test_odd_shapes_and_settings_equal_transformers(overrides, tiny_model):
    folder, tokens = tiny_model("llama", **overrides), tokens_of(1, 21)[0].tolist()
    step = LlamaStep(folder, "fp32", 2)
    found = step.forward(rows_of([(tokens, 0, [3, 1, 2])]), pool_of(step))
    np.testing.assert_allclose(found, logits_of(folder, tokens), atol=1e-3)
    step.close()


@settings(max_examples=15)
@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=6), st.sampled_from(["fp32", "q8", "q4_1"])
)
def test_chunks_do_not_change_a_bit(chunks, form):
    folder = _model()
    tokens = tokens_of(1, sum(chunks))[0].tolist()
    table = list(range(PAGES))
    for threads in (1, 2):
        step = LlamaStep(folder, form, threads)
        whole = step.forward(rows_of([(tokens, 0, table)]), pool_of(step))
        pool, first, parts = pool_of(step), 0, []
        for size in chunks:
            parts.append(
                step.forward(rows_of([(tokens[first : first + size], first, table)]), pool)
            )
            first += size
        assert np.array_equal(np.concatenate(parts), whole)
        step.close()


@pytest.mark.parametrize("form", ["fp32", "fp16", "q8", "q4_0", "q4_1"])
@pytest.mark.parametrize("kv", ["fp32", "fp16", "int8", "int4"])
def test_neighbours_do_not_change_a_bit(form, kv, llama):
    step = LlamaStep(llama, form, 2)
    prompts = [tokens_of(1, size, seed=size)[0].tolist() for size in (1, 9, 30, 4, 17)]
    tables = [list(range(4 * i, 4 * i + 4)) for i in range(len(prompts))]
    alone = [
        step.forward(rows_of([(prompt, 0, table)]), pool_of(step, kv))
        for prompt, table in zip(prompts, tables, strict=True)
    ]
    parts = [(prompt, 0, table) for prompt, table in zip(prompts, tables, strict=True)]
    together = step.forward(rows_of(parts), pool_of(step, kv))
    assert np.array_equal(together, np.concatenate(alone))
    step.close()


def test_a_tree_sees_its_ancestors_only(step):
    """Two branches behind one prefix, in one call, equal the two texts one by one."""
    prefix, left, right = [5, 6, 7, 8, 9], [10, 11], [20, 21]
    table = [0, 1]
    tokens = prefix + left + right
    positions = [*range(5), 5, 6, 5, 6]
    slots = [table[j // PAGE] * PAGE + j % PAGE for j in range(9)]
    bits = [[0b1], [0b11], [0b100], [0b1100]]
    pool = pool_of(step)
    step.forward(rows_of([(prefix, 0, table)]), pool)
    arrays = [tokens[5:], positions[5:], slots[5:], [0, 4], [9], [0, 2], table, range(4)]
    rows = StepRows(
        *map(ints, arrays), prefix_lengths=ints([5]), ancestors=np.array(bits, np.uint64)
    )
    found = step.forward(rows, pool)
    for branch, part in ((left, found[:2]), (right, found[2:])):
        alone = step.forward(rows_of([(prefix + branch, 0, table)]), pool_of(step))[5:]
        # The second branch lies in other slots than alone, so that its sums run in another order.
        assert (
            np.array_equal(part, alone) if branch is left else np.allclose(part, alone, atol=1e-5)
        )


@pytest.mark.parametrize(("kv", "tolerance"), [("fp16", 0.02), ("int8", 0.3)])
def test_smaller_caches_stay_close(kv, tolerance, llama, step):
    tokens = tokens_of(1, 50)[0].tolist()
    found = step.forward(rows_of([(tokens, 0, list(range(8)))]), pool_of(step, kv))
    np.testing.assert_allclose(found, logits_of(llama, tokens), atol=tolerance)


@pytest.mark.parametrize(("form", "tolerance"), [("fp16", 0.01), ("q8", 0.02), ("q4_1", 0.2)])
def test_forms_of_weights_lose_as_much_as_they_round(form, tolerance, llama):
    """Against the exact forward pass, relative to the spread of the logits."""
    tokens = tokens_of(1, 40)[0].tolist()
    step = LlamaStep(llama, form, 1)
    found = step.forward(rows_of([(tokens, 0, list(range(8)))]), pool_of(step))
    expected = logits_of(llama, tokens)
    error = np.sqrt(((found - expected) ** 2).mean()) / expected.std()
    assert error < 5 * tolerance
    wide = LlamaStep(llama, "fp32", 1)
    assert step.weight_bytes < {"fp16": 0.6, "q8": 0.4, "q4_1": 0.25}[form] * wide.weight_bytes
    step.close()
    wide.close()


@pytest.mark.parametrize("form", ["q8", "q4_0", "q4_1"])
def test_a_quantised_product_is_that_of_the_rounded_numbers(form, llama):
    """The embedding row of a packed matrix is what the codec rounds to: see test_packed."""
    weight = np.random.default_rng(0).standard_normal((37, 64)).astype(np.float32)
    kernel = library("step")
    packed = pack(weight, form, PackedLayout(kernel.step_lanes(), kernel.step_offset()), Room())
    assert packed.num_bytes < weight.nbytes * (0.4 if form == "q8" else 0.3)
    assert ctypes.sizeof(packed.struct) == 48


def test_blocks_of_differing_width_run(llama, tmp_path):
    prune(
        llama, tmp_path / "cut", "magnitude", sparsity=0.25, pattern="heads", allow_nonuniform=True
    )
    tokens = tokens_of(1, 20)[0].tolist()
    step = LlamaStep(tmp_path / "cut", "fp32", 2)
    found = step.forward(rows_of([(tokens, 0, [0, 1, 2])]), pool_of(step))
    with torch.no_grad():
        expected = full(tmp_path / "cut")(input_ids=torch.tensor([tokens])).logits[0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-3)
    step.close()


def test_what_it_does_not_compute_is_refused(tiny_model):
    with pytest.raises(UnsupportedModelError, match="The native step computes"):
        LlamaStep(tiny_model("phi"))
    with pytest.raises(SettingsError, match="fp23"):
        LlamaStep(tiny_model("llama"), "fp23")


def test_without_machine_code_it_says_so(llama):
    script = (
        "import sys; from treadle.runtime.native_step.llama import LlamaStep\n"
        "from treadle.core.errors import UnsupportedModelError\n"
        "try: LlamaStep(sys.argv[1])\n"
        "except UnsupportedModelError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, str(llama)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "TREADLE_NATIVE": "0"},
    )
    assert "needs its machine code" in done.stdout


def _model() -> Path:
    folder = cache_folder() / "tiny-llama-for-chunks"
    return folder if (folder / "config.json").is_file() else tiny.build("llama", folder)


def test_the_reader_is_closed(llama):
    """Weights are copied: the folder may go while the step lives."""
    step = LlamaStep(llama, "fp32", 1)
    with CheckpointReader(llama) as reader:
        assert step.shape.vocab_size == reader.config["vocab_size"]
    step.close()
    step.close()
