"""Kernels over stored codes: the same bits as their twins, wherever rows and blocks lie."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.core import codec
from treadle.native import codes, twins
from treadle.native.loader import library

BLOCK_BYTES = {"q8_0": 34, "q4_0": 18, "q4_1": 20}


@pytest.fixture(autouse=True)
def has_kernel():
    assert library("codes") is not None


def interleaved(module, values, lanes):
    rows, blocks, items = values.shape
    target = np.empty((-(-rows // lanes), blocks, items, lanes), values.dtype)
    module.interleave(values, target)
    return target


@given(
    st.integers(1, 40),
    st.integers(1, 5),
    st.integers(1, 9),
    st.sampled_from([8, 16]),
    st.sampled_from([np.uint16, np.float32]),
)
def test_lanes_stand_side_by_side(rows, blocks, items, lanes, dtype):
    values = np.arange(rows * blocks * items).reshape(rows, blocks, items).astype(dtype)
    found, again = (interleaved(module, values, lanes) for module in (codes, twins))
    assert np.array_equal(found, again)
    for row in range(-(-rows // lanes) * lanes):
        expected = values[row] if row < rows else np.zeros((blocks, items))
        assert np.array_equal(found[row // lanes, :, :, row % lanes], expected)


@given(
    st.integers(0, 1000),
    st.integers(1, 40),
    st.integers(1, 140),
    st.sampled_from([8, 16]),
    st.sampled_from([np.float16, ml_dtypes.bfloat16]),
)
def test_floats_of_16_bits_stand_side_by_side_in_32(seed, rows, cols, lanes, dtype):
    bits = np.random.default_rng(seed).integers(0, 1 << 16, (rows, cols + 3), np.uint16)
    values = (bits & 0xBBFF).view(dtype)[:, 1 : cols + 1]  # finite, subnormal numbers among them
    found, again = (np.empty((-(-rows // lanes), cols, lanes), np.float32) for _ in range(2))
    codes.widen(values, found)
    twins.widen(values, again)
    assert np.array_equal(found.view(np.uint32), again.view(np.uint32))
    for row in range(-(-rows // lanes) * lanes):
        expected = values[row].astype(np.float32) if row < rows else np.zeros(cols)
        assert np.array_equal(found[row // lanes, :, row % lanes], expected)


def test_what_lies_between_scales_is_read_where_it_lies():
    raw = np.random.default_rng(0).integers(0, 256, (21, 3 * 18), np.uint8)
    between = raw.reshape(21, 3, 18)[:, :, 2:].view(np.uint32)
    assert between.strides == (54, 18, 4)
    own = np.ascontiguousarray(between)
    assert np.array_equal(interleaved(codes, between, 16), interleaved(codes, own, 16))


@pytest.mark.parametrize("kind", BLOCK_BYTES)
@given(seed=st.integers(0, 1000), rows=st.integers(1, 4), blocks=st.integers(1, 5))
def test_blocks_decode_to_the_same_bits(kind, seed, rows, blocks):
    raw = np.random.default_rng(seed).integers(0, 256, (rows, blocks * BLOCK_BYTES[kind]), np.uint8)
    raw.reshape(-1, BLOCK_BYTES[kind])[:, 1:4:2] &= 0xBF  # halves, all of them finite
    found = getattr(codes, f"decode_{kind}")(raw)
    expected = getattr(codec, f"dequantize_{kind}")(raw)
    assert found.shape == expected.shape == (rows, 32 * blocks)
    assert np.array_equal(found, expected)


def test_without_the_kernel_the_twins_run(monkeypatch):
    monkeypatch.setenv("TREADLE_NATIVE", "0")
    raw = np.arange(68, dtype=np.uint8).reshape(1, 68)
    assert np.array_equal(codes.decode_q8_0(raw), codec.dequantize_q8_0(raw))
    values = np.arange(12, dtype=np.uint16).reshape(3, 2, 2)
    assert np.array_equal(interleaved(codes, values, 2), interleaved(twins, values, 2))
    halves, found = np.arange(6, dtype=np.float16).reshape(3, 2), np.empty((2, 2, 2), np.float32)
    codes.widen(halves, found)
    assert found.tolist() == [[[0, 2], [1, 3]], [[4, 0], [5, 0]]]
