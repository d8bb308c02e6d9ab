"""A window for each query head, in both executors, against transformers with a mask."""

import numpy as np
import pytest

from naive import tokens_of
from runtime.flat import EXECUTORS, executor_of, pool_of, rows_of
from runtime.masked import causal, masked
from runtime.test_head_tables import step_of, texts_in
from treadle.core.errors import SettingsError
from treadle.runtime.head_windows import kv_windows
from treadle.runtime.probe import Observable, Probe

TABLE = [5, 2, 7, 0, 3, 9]
NEAR = {"atol": 1e-4}


def windows_of(executor: Observable, seed: int) -> list[list[int | None] | None]:
    """A window for each head, by chance; the first layer keeps its own."""
    draw = np.random.default_rng(seed)
    row = next(iter(heads_of(executor)))
    choices = [None, 1, 2, 7, 20, 300]
    layers = [[choices[i] for i in draw.integers(0, 6, row)] for _ in executor.shape.kv_heads]
    return [None, *layers[1:]]


def heads_of(executor: Observable) -> list[int]:
    rows = rows_of([([1], 0, [0])])
    mass = executor.probe(rows, pool_of(executor), Probe(has_states=False)).mass
    return [len(layer) for layer in mass]


def masks_of(executor, windows, count):
    """[heads, tokens, tokens] of each layer; None: the layer's own window."""
    own = executor.shape.windows
    return [
        np.stack([causal(count, window) for window in layer or [own[number]]])
        for number, layer in enumerate(windows)
    ]


@pytest.mark.parametrize("name", EXECUTORS)
@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma2"])
def test_each_head_has_its_window(tiny_model, architecture, name):
    """A prompt in chunks, then single rows alone and side by side; and back to the model's own."""
    folder = tiny_model(architecture)
    executor = executor_of(folder, name)
    tokens = tokens_of(1, 44)[0].tolist()
    before = executor.forward(rows_of([(tokens, 0, TABLE)]), pool_of(executor))
    windows = windows_of(executor, 1)
    executor.set_head_windows(windows)
    masks = masks_of(executor, windows, len(tokens))
    expected = masked(folder, tokens, masks, has_own_windows=False).logits
    pool, other = pool_of(executor), [20, 21, 22, 23, 24, 25]
    for first, last in ((0, 25), (25, 42)):
        found = executor.forward(rows_of([(tokens[first:last], first, TABLE)]), pool)
        np.testing.assert_allclose(found, expected[first:last], **NEAR)
    executor.forward(rows_of([(tokens[:43], 0, other)]), pool)
    beside = [(tokens[42:43], 42, TABLE), (tokens[43:], 43, other)]
    np.testing.assert_allclose(executor.forward(rows_of(beside), pool), expected[42:], **NEAR)
    executor.set_head_windows(None)
    again = executor.forward(rows_of([(tokens, 0, TABLE)]), pool_of(executor))
    np.testing.assert_array_equal(again, before)


@pytest.mark.parametrize("name", EXECUTORS)
def test_windows_over_entries_that_stayed(tiny_model, name):
    folder = tiny_model("llama")
    executor = executor_of(folder, name)
    windows = windows_of(executor, 2)
    executor.set_head_windows(windows)
    (text,), found = texts_in(executor, "fp32", 1), []
    for number, count in enumerate((20, 1, 9)):
        text.grow(tokens_of(1, count, number)[0].tolist())
        found.append(executor.forward(step_of([text], [count]), text.store))
        text.drop(np.random.default_rng(number))
    size, group = len(text.tokens), heads_of(executor)[0] // text.store.kv_heads[0]
    kept = np.stack([np.pad(s, ((0, 0), (0, size - s.shape[1]))) for s in text.seen], 1)
    kept = np.split(kept, np.cumsum(text.store.kv_heads)[:-1])
    seen = [
        np.repeat(own, group, 0) & mask
        for own, mask in zip(kept, masks_of(executor, windows, size), strict=True)
    ]
    expected = masked(folder, text.tokens, seen).logits
    np.testing.assert_allclose(np.concatenate(found), expected, **NEAR)


@pytest.mark.parametrize("name", EXECUTORS)
def test_a_kv_head_keeps_what_its_widest_reader_sees(tiny_model, name):
    executor = executor_of(tiny_model("mistral"), name)
    (heads, *_), (kv_heads, *_) = heads_of(executor), executor.shape.kv_heads
    assert kv_windows([3, 5, None, 2], 2) == (5, None)
    assert kv_windows([3, 5, 9, 2], 1) == (9,)
    before = executor.shape
    executor.set_head_windows([[4] * heads, *[None] * (before.num_layers - 1)])
    assert executor.shape.kv_windows[:2] == ((4,) * kv_heads, None)
    assert executor.shape.windows == (4, *before.windows[1:])
    executor.set_head_windows(None)
    assert executor.shape == before


@pytest.mark.parametrize("name", EXECUTORS)
def test_windows_that_do_not_fit_are_refused(llama, name):
    executor = executor_of(llama, name)
    heads, layers = heads_of(executor), executor.shape.num_layers
    with pytest.raises(SettingsError, match=r"expected \[.*give each query head of each layer"):
        executor.set_head_windows([[4] * (heads[0] + 1), *[None] * (layers - 1)])
    with pytest.raises(SettingsError, match="in 1 layers, expected"):
        executor.set_head_windows([None])
    with pytest.raises(SettingsError, match=r"windows\[0\]\[1\]"):
        executor.set_head_windows([[4, 0, *[4] * (heads[0] - 2)], *[None] * (layers - 1)])


@pytest.mark.parametrize("name", EXECUTORS)
def test_windows_of_other_kinds_and_sizes(llama, name):
    executor = executor_of(llama, name)
    heads, layers = heads_of(executor), executor.shape.num_layers
    for bad in (5, [5] * layers, ["x"] * layers):
        with pytest.raises(SettingsError, match="give a list for each layer"):
            executor.set_head_windows(bad)
    executor.set_head_windows([[2**40] * count for count in heads])
    assert executor.shape.kv_windows[0] == (2**31 - 1,) * executor.shape.kv_heads[0]
