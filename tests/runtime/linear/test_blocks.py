"""GGUF's blocks, multiplied as they lie: what their decoded weights give, in every type."""

import ctypes

import numpy as np
import pytest

from native.test_blocks import drawn
from treadle.model.coded import RawBlocks
from treadle.native import blocks, repack
from treadle.native.loader import library
from treadle.native.pointers import pointer
from treadle.runtime.linear.blocks import BLOCK_FORMS, pack_blocks
from treadle.runtime.linear.packed import PackedLayout, Room
from treadle.runtime.native_step.structs import MIRRORS

COLS = 512


@pytest.fixture(scope="module")
def kernel():
    found = library("step", *MIRRORS)
    assert found is not None
    return found


def small(kind: str, rows: int, seed: int = 1) -> np.ndarray:
    """Random blocks whose scales are near 1: sums are then as exact as weights."""
    said = blocks.TYPES[kind]
    raw = drawn(kind, seed, rows, COLS // said.columns).reshape(rows, -1, said.block_bytes)
    at = repack._HALVES_AT.get(kind, 0)
    if kind == "mxfp4":
        raw[:, :, 0] = 120 + raw[:, :, 0] % 8
    else:
        own = np.random.default_rng(seed).uniform(-1, 1, (*raw.shape[:2], 1 + said.has_lowers))
        halves = own.astype(np.float16).view(np.uint8).reshape(*raw.shape[:2], -1)
        raw[:, :, at : at + halves.shape[-1]] = halves
    return raw.reshape(rows, -1)


def rounded(values: np.ndarray) -> np.ndarray:
    """Activations as the kernel sees them: 8 bits in blocks of 32."""
    by_block = values.reshape(len(values), -1, 32).astype(np.float32)
    largest = np.abs(by_block).max(axis=2, keepdims=True)
    factor = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 0)
    return ((by_block * factor).round() * (largest / 127).astype(np.float64)).reshape(values.shape)


def packed_of(kernel, kind: str, raw: np.ndarray, bias: np.ndarray | None = None):
    layout = PackedLayout(kernel.step_lanes(), kernel.step_offset())
    return pack_blocks(RawBlocks(kind, raw, COLS), layout, Room(), bias)


def test_every_type_that_is_decoded_is_multiplied():
    assert set(blocks.TYPES) - set(BLOCK_FORMS) == {"q8_k"}  # no file has weights of it


@pytest.mark.parametrize("kind", BLOCK_FORMS)
@pytest.mark.parametrize(("rows", "count"), [(37, 1), (64, 2), (5, 13), (150, 41)])
def test_products_are_those_of_decoded_weights(kernel, kind, rows, count):
    raw, rng = small(kind, rows), np.random.default_rng(2)
    values = rng.standard_normal((count, COLS)).astype(np.float32)
    values[0, 32:64], values[-1, 64:96] = 0, 1e-30
    bias = rng.standard_normal(rows).astype(np.float32)
    packed, found = packed_of(kernel, kind, raw, bias), np.zeros((count, rows), np.float32)
    assert not kernel.step_product(
        ctypes.byref(packed.struct), pointer(values), ctypes.c_int32(count), pointer(found)
    )
    weights = blocks.weights_of(kind, raw).astype(np.float64)
    expected = rounded(values) @ weights.T + bias
    size = np.abs(rounded(values)) @ np.abs(weights).T
    assert (np.abs(found - expected) < 3e-6 * size + 1e-6).all()
    alone = np.zeros((1, rows), np.float32)
    for place in (0, count // 2, count - 1):  # a row looks at nothing beside it
        one = np.ascontiguousarray(values[place : place + 1])
        kernel.step_product(
            ctypes.byref(packed.struct), pointer(one), ctypes.c_int32(1), pointer(alone)
        )
        assert np.array_equal(alone[0], found[place])


@pytest.mark.parametrize("kind", BLOCK_FORMS)
def test_a_row_is_what_the_file_says(kernel, kind):
    raw = small(kind, 21)
    packed, found = packed_of(kernel, kind, raw), np.zeros(COLS, np.float32)
    for row in (0, 15, 20):
        kernel.step_row(ctypes.byref(packed.struct), ctypes.c_int32(row), pointer(found))
        expected = blocks.weights_of(kind, raw[row : row + 1])[0]
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("kind", BLOCK_FORMS)
@pytest.mark.parametrize("lanes", [8, 16])
def test_c_and_numpy_lay_the_same_bytes(monkeypatch, kind, lanes):
    """Of rows that lie apart, too; and all bits of the file are there."""
    raw = drawn(kind, 3, 37, COLS // blocks.TYPES[kind].columns)
    wide = np.zeros((37, raw.shape[1] + 5), np.uint8)
    wide[:, : raw.shape[1]] = raw
    layout = PackedLayout(lanes, 0)
    in_c = pack_blocks(RawBlocks(kind, wide[:, : raw.shape[1]], COLS), layout, Room())
    monkeypatch.setattr(repack, "library", lambda name: None)
    in_numpy = pack_blocks(RawBlocks(kind, raw, COLS), layout, Room())
    assert len(in_c.arrays) == len(in_numpy.arrays) == 3
    for one, other in zip(in_c.arrays, in_numpy.arrays, strict=True):
        assert np.array_equal(one, other)
    padding = -(-37 // lanes) * lanes / 37
    assert in_c.num_bytes / padding / raw.nbytes <= 1.04
