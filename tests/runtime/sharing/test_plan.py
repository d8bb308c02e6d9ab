"""Rows that share pages meet them together, and get the numbers that they get apart."""

import numpy as np
import pytest

from runtime.sharing.grown import filled, grown, step_of
from treadle.native.loader import library
from treadle.runtime.native_step.llama import LlamaStep
from treadle.runtime.sharing.plan import EXACT, MODES
from treadle.runtime.transformers_step.generic import GenericExecutor

needs_kernel = pytest.mark.skipif(library("step") is None, reason="needs a C compiler")

MODELS = {
    "llama": ("llama", {}),
    "seven": (
        "llama",
        {"hidden_size": 70, "num_attention_heads": 7, "num_key_value_heads": 1, "head_dim": 32},
    ),
    "five": (
        "llama",
        {"hidden_size": 80, "num_attention_heads": 5, "num_key_value_heads": 5, "head_dim": 70},
    ),
    "mistral": ("mistral", {"sliding_window": 40}),
    "gemma2": ("gemma2", {"sliding_window": 130}),
}


def outcome(step: LlamaStep, mode: str, seed: int, size: int, kv: str, rows: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    branches = grown(rng, size, max(3, 400 // size), 20, rows)
    call = step_of(branches, size, rng, step.shape.vocab_size)
    pool = filled(step.shape, branches, size, kv, rng)
    step.tree_attention = mode
    found = step.forward(call, pool)
    assert mode == "auto" or (step.sharing.last is None) == (mode == "path")
    return found


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("size", "kv", "rows"), [(16, "fp32", 4), (3, "int8", 1), (16, "int4", 1)])
def test_the_generic_step_gives_what_each_path_gives(name, size, kv, rows, tiny_model):
    kind, overrides = MODELS[name]
    folder = tiny_model(kind, max_position_embeddings=8192, **overrides)
    step = GenericExecutor.from_folder(folder)
    rng = np.random.default_rng(1)
    branches = grown(rng, size, 400 // size, 12, rows)
    call = step_of(branches, size, rng, step.shape.vocab_size)
    found = {}
    for mode in MODES:
        step.tree_attention = mode
        pool = filled(step.shape, branches, size, kv, np.random.default_rng(2))
        found[mode] = step.forward(call, pool)
    for mode in MODES:
        most = (1e-3 if kv.startswith("int") else 2e-5) * np.abs(found["path"]).max()
        np.testing.assert_allclose(found[mode], found["path"], atol=most)
    if size == 16 and library("step") is not None:
        native = LlamaStep(folder, "fp32", 1)
        own = native.forward(call, filled(step.shape, branches, size, kv, np.random.default_rng(2)))
        np.testing.assert_allclose(own, found["path"], atol=1e-3)
        native.close()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("size", "kv", "rows"),
    [
        *[(16, "fp32", 1), (16, "int8", 4), (32, "fp16", 3)],
        *[(256, "fp32", 2), (16, "int4", 3)],
    ],
)
def test_every_mode_gives_what_each_path_gives(name, size, kv, rows, tiny_model):
    kind, overrides = MODELS[name]
    step = LlamaStep(tiny_model(kind, max_position_embeddings=8192, **overrides), "fp32", 2)
    for seed in range(2):
        expected = outcome(step, "path", seed, size, kv, rows)
        for mode in MODES:
            found = outcome(step, mode, seed, size, kv, rows)
            if mode in EXACT:
                assert np.array_equal(found, expected), mode
            else:
                # Of another order of sums; what is written may round to another code.
                most = (2e-5 if kv == "fp32" else 1e-3) * np.abs(expected).max()
                np.testing.assert_allclose(found, expected, atol=most)
    step.close()
