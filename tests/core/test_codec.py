import gguf
import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from treadle.core.codec import (
    DTYPES,
    as_numpy,
    as_torch,
    cast,
    dequantize_q4_1,
    dequantize_q8_0,
    dtype_code,
)
from treadle.core.errors import SettingsError

FLOAT32_BITS = hnp.arrays(np.uint32, st.integers(0, 64), elements=st.integers(0, 2**32 - 1))


@given(FLOAT32_BITS)
def test_casts_round_to_nearest_even_as_torch_does(bits: np.ndarray) -> None:
    values = bits.view(np.float32)
    values = values[np.isfinite(values)]
    expected = torch.from_numpy(values).to(torch.bfloat16)
    np.testing.assert_array_equal(
        cast(values, "BF16", "w").view(np.int16), expected.view(torch.int16).numpy()
    )
    small = values[np.abs(values) < 65504]
    np.testing.assert_array_equal(
        cast(small, "F16", "w"), torch.from_numpy(small).to(torch.float16).numpy()
    )


def test_ties_go_to_even() -> None:
    ties = np.array([1 + 2**-8, 1 + 3 * 2**-8], np.float32)  # halfway between two bfloat16
    assert cast(ties, "BF16", "w").astype(np.float32).tolist() == [1.0, 1 + 2**-6]


@pytest.mark.parametrize("code", ["F16", "BF16"])
def test_every_half_float_survives_float32(code: str) -> None:
    halves = np.arange(2**16, dtype=np.uint16).view(DTYPES[code])
    wide = cast(halves, "F32", "w")
    halves, wide = halves[~np.isnan(wide)], wide[~np.isnan(wide)]
    np.testing.assert_array_equal(cast(wide, code, "w").view(np.uint16), halves.view(np.uint16))


def test_a_cast_to_the_same_dtype_is_no_copy() -> None:
    values = np.ones(3, ml_dtypes.bfloat16)
    assert cast(values, "BF16", "w") is values


@pytest.mark.parametrize(("code", "bound"), [("F16", "65504"), ("F8_E4M3", "448")])
def test_a_cast_that_overflows_is_refused(code: str, bound: str) -> None:
    with pytest.raises(
        SettingsError, match=f"'w' holds 70000, more than {code} can express .*{bound}"
    ):
        cast(np.array([1, -70000], np.float32), code, "w")


def test_what_was_not_finite_stays_so() -> None:
    with np.errstate(all="raise"):
        assert np.isinf(cast(np.array([np.inf], np.float32), "F16", "w")).all()


def test_integers_are_never_cast() -> None:
    with pytest.raises(SettingsError, match="'w' holds I64, but F32 was expected"):
        cast(np.arange(3), "F32", "w")


def test_dtype_codes() -> None:
    assert dtype_code("bfloat16") == dtype_code("torch.bfloat16") == dtype_code("BF16") == "BF16"
    assert [dtype_code(dtype) for dtype in DTYPES.values()] == list(DTYPES)
    with pytest.raises(SettingsError, match="'float12' is unknown; choose one of: float64, float3"):
        dtype_code("float12")
    with pytest.raises(SettingsError, match="complex64"):
        dtype_code(np.dtype(np.complex64))


@pytest.mark.parametrize("code", DTYPES)
@pytest.mark.parametrize("shape", [(3, 4), (), (0, 2)])
def test_torch_and_numpy_share_memory(code: str, shape: tuple[int, ...]) -> None:
    array = np.ones(shape).astype(DTYPES[code])
    tensor = as_torch(array)
    assert tuple(tensor.shape) == shape
    back = as_numpy(tensor)
    assert back.dtype == array.dtype
    assert back.tobytes() == array.tobytes()
    if array.size:
        assert np.shares_memory(back, array)


@given(st.integers(1, 3), st.integers(1, 4), st.randoms(use_true_random=False))
def test_q4_1_is_scale_times_code_plus_minimum(rows: int, blocks: int, random) -> None:
    raw = _random_blocks(rows, blocks, 20, (0, 2), random)
    weights = dequantize_q4_1(raw)
    for row in range(rows):
        for block in range(blocks):
            stored = raw[row, 20 * block : 20 * block + 20]
            scale, minimum = stored[:4].view(np.float16).astype(np.float32)
            for place in range(32):
                byte = stored[4 + place % 16]
                code = byte & 15 if place < 16 else byte >> 4
                assert weights[row, 32 * block + place] == scale * np.float32(code) + minimum
    reference = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType.Q4_1)
    np.testing.assert_array_equal(weights, reference)


@given(st.integers(1, 3), st.integers(1, 4), st.randoms(use_true_random=False))
def test_q8_0_is_scale_times_code(rows: int, blocks: int, random) -> None:
    raw = _random_blocks(rows, blocks, 34, (0,), random)
    weights = dequantize_q8_0(raw)
    for row in range(rows):
        for block in range(blocks):
            stored = raw[row, 34 * block : 34 * block + 34]
            scale = stored[:2].view(np.float16).astype(np.float32)[0]
            for place, code in enumerate(stored[2:].view(np.int8)):
                assert weights[row, 32 * block + place] == scale * np.float32(code)
    reference = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType.Q8_0)
    np.testing.assert_array_equal(weights, reference)


def _random_blocks(
    rows: int, blocks: int, num_bytes: int, halves: tuple[int, ...], random
) -> np.ndarray:
    raw = np.frombuffer(random.randbytes(rows * blocks * num_bytes), np.uint8).copy()
    per_block = raw.reshape(-1, num_bytes)
    for start in halves:
        finite = np.array([random.uniform(-2, 2) for _ in per_block], np.float16)
        per_block[:, start : start + 2] = finite.view(np.uint8).reshape(-1, 2)
    return raw.reshape(rows, -1)
