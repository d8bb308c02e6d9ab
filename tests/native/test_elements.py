"""Kernels over runs of elements: the same bits as their twins, and as what they mean."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.native import elements, twins

SIZES = st.integers(0, 200)
SEEDS = st.integers(0, 10_000)


def floats(size, seed, scale=1.0):
    values = np.random.default_rng(seed).standard_normal(size) * scale
    return values.astype(np.float32)


@given(SIZES, SEEDS)
def test_bfloat16_there_and_back(size, seed):
    values = floats(size, seed)
    for module in (elements, twins):
        bits = np.empty(size, np.uint16)
        module.encode_bf16(values, bits)
        expected = values.astype(ml_dtypes.bfloat16)
        assert np.array_equal(bits, expected.view(np.uint16))
    wide = np.empty(size, np.float32)
    assert twins.decode_bf16(bits, wide)
    assert np.array_equal(wide, expected.astype(np.float32))


def test_halves_round_to_even():
    values = np.array([1.00390625, 1.01171875, -1.00390625], np.float32)
    bits = np.empty(3, np.uint16)
    elements.encode_bf16(values, bits)
    assert bits.view(ml_dtypes.bfloat16).astype(np.float32).tolist() == [1.0, 1.015625, -1.0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 7, 40])
def test_what_is_no_number_is_found(bad, place):
    values = floats(41, 1)
    values[place] = bad
    bits = values.astype(ml_dtypes.bfloat16).view(np.uint16)
    for module in (elements, twins):
        assert not module.are_finite(values)
        assert module.are_finite(floats(41, 1))
    assert not twins.decode_bf16(bits, np.empty(41, np.float32))


@given(SIZES, SEEDS)
def test_histograms_count_magnitudes(size, seed):
    values = floats(size, seed)
    bits = values.view(np.uint32) & 0x7FFFFFFF
    found = [np.zeros(1 << 15, np.int64) for _ in range(2)]
    for module, bins in zip((elements, twins), found, strict=True):
        module.count_high_bits(values, bins)
        assert np.array_equal(bins, np.bincount(bits >> 16, minlength=1 << 15))
    if size:
        high = int(bits[0] >> 16)
        for module in (elements, twins):
            low = np.zeros(1 << 16, np.int64)
            module.count_low_bits(values, high, low)
            assert low.sum() == (bits >> 16 == high).sum()
            assert low[bits[0] & 0xFFFF] >= 1


@given(st.integers(0, 2**63), st.integers(0, 2**40), SIZES, st.integers(0, 100))
def test_random_numbers_do_not_depend_on_the_run(key, first, size, cut):
    whole, twin = np.empty(size, np.float32), np.empty(size, np.float32)
    elements.uniform(key, first, whole)
    twins.uniform(key, first, twin)
    assert np.array_equal(whole, twin)
    cut = min(cut, size)
    parts = [np.empty(cut, np.float32), np.empty(size - cut, np.float32)]
    elements.uniform(key, first, parts[0])
    elements.uniform(key, first + cut, parts[1])
    assert np.array_equal(np.concatenate(parts), whole)


def test_random_numbers_are_uniform_and_independent():
    streams = np.empty((8, 100_000), np.float32)
    for key, row in enumerate(streams):
        elements.uniform(key, 0, row)
    assert streams.min() >= 0
    assert streams.max() < 1
    counts = np.array([np.histogram(row, 100, (0, 1))[0] for row in streams])
    chi_squared = ((counts - 1000.0) ** 2 / 1000).sum(axis=1)
    assert (chi_squared < 160).all()  # 99 degrees of freedom: one in ten thousand lies above
    correlation = np.corrcoef(streams)
    assert np.abs(correlation - np.eye(8)).max() < 0.02


@given(st.integers(1, 600), SEEDS, st.integers(1, 6), st.booleans())
def test_scalar_products_are_exact_but_for_float64(size, seed, count, has_base):
    vectors = [floats(size, seed + n) for n in range(count)]
    base = floats(size, seed + count) if has_base else None
    found, twin = np.zeros((count, count)), np.zeros((count, count))
    for module, products in ((elements, found), (twins, twin)):
        module.gram(vectors, products, base)
        module.gram(vectors, products, base)  # adds up
    assert np.array_equal(found, twin)
    wide = (np.stack(vectors) - (0 if base is None else base)).astype(np.float64)
    assert found == pytest.approx(np.tril(2 * wide @ wide.T), rel=1e-12, abs=1e-12)


@given(st.integers(0, 3000), SEEDS, st.integers(1, 4))
def test_weighted_changes_in_order(size, seed, count):
    vectors, base = [floats(size, seed + n) for n in range(count)], floats(size, seed + 9)
    weights, factor = floats(count, seed), np.float32(0.3)
    expected = (vectors[0] - base) * weights[0]
    for vector, weight in zip(vectors[1:], weights[1:], strict=True):
        expected = expected + (vector - base) * weight
    for module in (elements, twins):
        place = [vector.copy() for vector in vectors]
        module.weighted_change(place, base, weights, float(factor), place[-1])
        assert np.array_equal(place[-1], expected * factor + base)


@given(st.integers(0, 3000), SEEDS, st.integers(1, 4))
def test_weighted_sums_in_order(size, seed, count):
    vectors = [floats(size, seed + n) for n in range(count)]
    weights = floats(count, seed)
    expected = vectors[0] * weights[0]
    for vector, weight in zip(vectors[1:], weights[1:], strict=True):
        expected = expected + vector * weight
    for module in (elements, twins):
        place = [vector.copy() for vector in vectors]
        module.weighted_sum(place, weights, place[-1])
        assert np.array_equal(place[-1], expected)


@pytest.mark.parametrize("size", [1, 32_768, 70_001])
def test_bfloat16_is_read_from_anywhere_in_a_file(tmp_path, size):
    bits = floats(size + 3, 5).astype(ml_dtypes.bfloat16)
    (tmp_path / "file").write_bytes(b"x" + bits.tobytes())
    with (tmp_path / "file").open("rb") as file:
        for module in (elements, twins):
            target = np.empty(size, np.float32)
            assert module.read_bf16(file.fileno(), 1 + 2 * 3, target)
            assert np.array_equal(target, bits[3:].astype(np.float32))
            with pytest.raises(EOFError, match="ends at byte"):
                module.read_bf16(file.fileno(), 1 + 2 * 4, target)
            with pytest.raises(OSError, match="Bad file descriptor"):
                module.read_bf16(999, 0, target)


def test_a_number_that_is_none_is_found_while_reading(tmp_path):
    values = floats(40_000, 2)
    values[39_999] = np.inf
    (tmp_path / "file").write_bytes(values.astype(ml_dtypes.bfloat16).tobytes())
    with (tmp_path / "file").open("rb") as file:
        for module in (elements, twins):
            assert not module.read_bf16(file.fileno(), 0, np.empty(40_000, np.float32))
            assert module.read_bf16(file.fileno(), 0, np.empty(39_999, np.float32))
