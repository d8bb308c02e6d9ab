"""GGUF's blocks decode to the bits of the gguf package, in C and in numpy."""

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize
from hypothesis import given
from hypothesis import strategies as st

from treadle.native import blocks, codes
from treadle.native.loader import library

SCALES = {
    "q2_k": (80, 82),
    "q3_k": (108,),
    "q4_k": (0, 2),
    "q5_k": (0, 2),
    "q6_k": (208,),
    "q8_k": (2,),
    "q5_0": (0,),
    "q5_1": (0, 2),
    "iq4_nl": (0,),
    "iq4_xs": (0,),
    "mxfp4": (),
}
"""Where the floats of 16 bits lie in a block; q8_k's has 32, whose upper half it is."""


@pytest.fixture(autouse=True)
def has_kernel():
    assert library("codes") is not None


def drawn(kind, seed, rows, num_blocks):
    """Random bytes whose scales are finite, subnormal ones and negative ones among them."""
    said = blocks.TYPES[kind]
    raw = np.random.default_rng(seed).integers(
        0, 256, (rows * num_blocks, said.block_bytes), np.uint8
    )
    for first in SCALES[kind]:
        raw[:, first + 1] &= 0xBF
    return raw.reshape(rows, -1)


def expected_of(kind, raw):
    if kind != "q8_k":  # which the package does not decode
        return dequantize(raw, gguf.GGMLQuantizationType[kind.upper()])
    found = []
    for block in raw.reshape(-1, 292):
        scale = block[:4].copy().view(np.float32)
        found.append(scale * block[4:260].view(np.int8).astype(np.float32))
    return np.concatenate(found).reshape(len(raw), -1)


@pytest.mark.parametrize("kind", blocks.TYPES)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 4), num_blocks=st.integers(1, 3))
def test_blocks_decode_to_the_bits_of_the_package(kind, seed, rows, num_blocks):
    raw = drawn(kind, seed, rows, num_blocks)
    with np.errstate(over="ignore"):  # mxfp4's largest exponents
        expected = expected_of(kind, raw)
        twin = blocks.weights_of(kind, raw)
    assert expected.shape == (rows, num_blocks * blocks.TYPES[kind].columns)
    for found in (twin, codes.decode_blocks(kind, raw)):
        assert found.shape == expected.shape
        assert np.array_equal(found.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("kind", blocks.TYPES)
def test_the_description_says_what_is_unpacked(kind):
    said, found = blocks.TYPES[kind], blocks.unpack_blocks(kind, drawn(kind, 0, 64, 4))
    assert found.codes.shape == (256, said.columns)
    assert found.codes.max() < 1 << said.num_bits
    assert found.codes.max() >= 1 << (said.num_bits - 1)
    assert found.factors.shape == (256, said.columns // said.sub_columns)
    assert (found.lowers is not None) == (found.minimum is not None) == said.has_lowers
    number, size = gguf.GGMLQuantizationType[kind.upper()], (said.columns, said.block_bytes)
    assert gguf.GGML_QUANT_SIZES[number] == (size if kind != "q8_k" else (256, 292))


def test_without_the_kernel_numpy_decodes(monkeypatch):
    raw = drawn("q4_k", 1, 2, 2)
    compiled = codes.decode_blocks("q4_k", raw)
    monkeypatch.setenv("TREADLE_NATIVE", "0")
    assert np.array_equal(codes.decode_blocks("q4_k", raw), compiled)
