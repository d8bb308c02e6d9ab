"""Packed weights hold the numbers that the codec rounds to."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.core.codec import (
    dequantize_q4_1,
    dequantize_q8_0,
    quantize_q4_0,
    quantize_q4_1,
    quantize_q8_0,
)
from treadle.core.errors import SettingsError
from treadle.runtime.linear.packed import PackedLayout, Room, pack, require_form


def random(rows, cols, seed=0, scale=0.1):
    values = np.random.default_rng(seed).standard_normal((rows, cols)) * scale
    return values.astype(np.float32)


def unpacked(packed, form, layout, rows, cols):
    """Undo the interleaving, number by number."""
    data, *halves = packed.arrays
    data = data.reshape(len(data), -1, layout.lanes, 4)
    scales, *rest = (part.reshape(len(data), -1, layout.lanes) for part in halves)
    found = np.zeros((rows, cols))
    for row in range(rows):
        group, lane = divmod(row, layout.lanes)
        for col in range(cols):
            block, i = divmod(col, 32)
            scale = float(scales[group, block, lane])
            if form == "q8":
                code = int(data[group, block * 8 + i // 4, lane, i % 4])
                code = code - layout.offset if layout.offset else code - 256 * (code > 127)
                found[row, col] = scale * code
            else:
                byte = int(data[group, block * 4 + i % 16 // 4, lane, i % 4])
                code = byte & 15 if i < 16 else byte >> 4
                found[row, col] = scale * code + float(rest[0][group, block, lane])
    return found


@given(
    st.sampled_from(["q8", "q4_0", "q4_1"]),
    st.integers(1, 20),
    st.integers(1, 3),
    st.sampled_from([PackedLayout(8, 0), PackedLayout(16, 128)]),
    st.integers(0, 99),
)
def test_interleaving_keeps_every_number(form, rows, blocks, layout, seed):
    weight = random(rows, 32 * blocks, seed)
    found = unpacked(pack(weight, form, layout, Room()), form, layout, rows, 32 * blocks)
    if form == "q8":
        codes, scales = quantize_q8_0(weight)
        expected = codes * np.repeat(scales.astype(np.float64), 32, axis=1)
    elif form == "q4_0":
        codes, scales = quantize_q4_0(weight)
        expected = (codes.astype(int) - 8) * np.repeat(scales.astype(np.float64), 32, axis=1)
    else:
        codes, scales, minima = quantize_q4_1(weight)
        wide = np.repeat(scales.astype(np.float64), 32, axis=1)
        expected = codes * wide + np.repeat(minima.astype(np.float64), 32, axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@given(st.integers(0, 999), st.floats(1e-6, 100.0))
def test_rounding_errs_by_half_a_step_at_most(seed, scale):
    weight = random(3, 64, seed, scale)
    blocks = weight.reshape(3, 2, 32)
    codes, scales = quantize_q8_0(weight)
    step = np.abs(blocks).max(axis=-1) / 127
    error = np.abs(codes.reshape(blocks.shape) * scales[..., None].astype(np.float64) - blocks)
    assert (error.max(axis=-1) <= 0.5 * step * 1.001 + 127 * np.abs(scales - step) + 1e-7).all()
    codes, scales, minima = quantize_q4_1(weight)
    wide = codes.reshape(blocks.shape) * scales[..., None].astype(np.float64)
    error = np.abs(wide + minima[..., None] - blocks)
    step = (blocks.max(axis=-1) - blocks.min(axis=-1)) / 15
    slack = 16 * np.abs(scales - step) + np.abs(minima - blocks.min(axis=-1)) + 1e-7
    assert (error.max(axis=-1) <= 0.5 * step * 1.001 + slack).all()


def test_the_codec_reads_back_what_it_rounds():
    """The same blocks as GGUF lays them out."""
    weight = random(1, 32)
    codes, scales = quantize_q8_0(weight)
    raw = np.concatenate([scales[0].view(np.uint8), codes[0].view(np.uint8)])
    np.testing.assert_allclose(
        dequantize_q8_0(raw), codes[0] * scales[0].astype(np.float32), rtol=1e-6
    )
    codes, scales, minima = quantize_q4_1(weight)
    pairs = codes[0, :16] | codes[0, 16:] << 4
    raw = np.concatenate([scales[0].view(np.uint8), minima[0].view(np.uint8), pairs])
    expected = codes[0] * scales[0].astype(np.float32) + minima[0].astype(np.float32)
    np.testing.assert_allclose(dequantize_q4_1(raw), expected, rtol=1e-5, atol=1e-6)


def test_zero_blocks_stay_zero():
    zero = np.zeros((2, 32), np.float32)
    assert not quantize_q8_0(zero)[0].any()
    codes, scales = quantize_q4_0(zero)
    assert (codes == 8).all()
    assert not scales.any()
    codes, scales, minima = quantize_q4_1(zero)
    assert not codes.any()
    assert not minima.any()


def test_what_blocks_do_not_divide_is_held_in_float16():
    packed = pack(random(4, 33), "q4_0", PackedLayout(8, 0), Room())
    assert packed.struct.type == 1
    (data,) = packed.arrays
    assert data.shape == (1, 1, 33, 8)  # a column of eight rows at a time, four of them empty
    np.testing.assert_allclose(data[0, 0, :, :4].T, random(4, 33), rtol=1e-3)
    assert not data[0, 0, :, 4:].any()


def test_mistakes_are_named():
    with pytest.raises(SettingsError, match="No weight form 'q4'"):
        require_form("q4")
    with pytest.raises(SettingsError, match="larger than float16"):
        pack(np.full((1, 4), 1e6, np.float32), "fp16", PackedLayout(8, 0), Room())
