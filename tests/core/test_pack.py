"""Token files: what Megatron reads, and what is refused."""

import struct

import numpy as np
import pytest

from treadle.core.errors import DataError
from treadle.core.pack import open_tokens, token_dtype, write_tokens

DOCUMENTS = [np.array([5, 6, 7]), np.array([1]), np.arange(100)]


@pytest.mark.parametrize(("vocab_size", "code"), [(257, 8), (65499, 8), (65500, 4), (200000, 4)])
def test_files_are_those_of_megatron(tmp_path, vocab_size, code):
    dtype = token_dtype(vocab_size)
    assert write_tokens(tmp_path / "t", DOCUMENTS, dtype) == 104
    raw = (tmp_path / "t.idx").read_bytes()
    # Read as the format says, field by field.
    assert raw[:9] == b"MMIDIDX\0\0"
    assert struct.unpack_from("<Q", raw, 9) == (1,)
    assert raw[17] == code
    assert struct.unpack_from("<QQ", raw, 18) == (3, 4)
    assert np.frombuffer(raw, "<i4", 3, 34).tolist() == [3, 1, 100]
    assert np.frombuffer(raw, "<i8", 3, 46).tolist() == [0, 3 * dtype.itemsize, 4 * dtype.itemsize]
    assert np.frombuffer(raw, "<i8", 4, 70).tolist() == [0, 1, 2, 3]
    assert len(raw) == 102
    content = np.fromfile(tmp_path / "t.bin", dtype)
    assert content.tolist() == np.concatenate(DOCUMENTS).tolist()


def test_documents_are_read_back(tmp_path):
    write_tokens(tmp_path / "t", DOCUMENTS, token_dtype(257))
    opened = open_tokens(tmp_path / "t")
    assert len(opened) == 3
    for number, document in enumerate(DOCUMENTS):
        start, stop = opened.starts[number : number + 2]
        assert opened.tokens[start:stop].tolist() == document.tolist()


def test_marks_of_another_program_join_sequences(tmp_path):
    write_tokens(tmp_path / "t", DOCUMENTS, token_dtype(257))
    raw = bytearray((tmp_path / "t.idx").read_bytes())
    raw[26:34] = struct.pack("<Q", 2)
    (tmp_path / "t.idx").write_bytes(bytes(raw[:70]) + np.array([0, 3], "<i8").tobytes())
    assert open_tokens(tmp_path / "t").starts.tolist() == [0, 104]


def test_damage_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"No token file at .*t.idx'"):
        open_tokens(tmp_path / "t")
    write_tokens(tmp_path / "t", DOCUMENTS, token_dtype(257))
    index, content = tmp_path / "t.idx", tmp_path / "t.bin"
    whole = index.read_bytes()
    content.write_bytes(content.read_bytes()[:-2])
    with pytest.raises(DataError, match=r"has 206 bytes where its index says 208"):
        open_tokens(tmp_path / "t")
    index.write_bytes(whole[:-3])
    with pytest.raises(DataError, match=r"99 bytes, expected version 1.*and 102 bytes"):
        open_tokens(tmp_path / "t")
    index.write_bytes(b"something else")
    with pytest.raises(DataError, match="no index of Megatron"):
        open_tokens(tmp_path / "t")
