"""The file of a state: the package safetensors reads it, and damage is found."""

import pytest
import torch
from safetensors import safe_open

from treadle.model.fit.state_file import StateFile, write_state

TENSORS = {
    "a": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "b": torch.tensor([True, False, True]),
    "c": torch.zeros(0, 4, dtype=torch.bfloat16),
    "d": torch.tensor(3.0, dtype=torch.float64),
    "e": torch.arange(8, dtype=torch.int64)[::2],
}


@pytest.fixture
def file(tmp_path):
    write_state(tmp_path / "s.safetensors", TENSORS, {"key": "é"})
    return tmp_path / "s.safetensors"


def test_both_readers_find_what_was_written(file):
    with StateFile(file) as ours, safe_open(file, "pt") as theirs:
        assert ours.note == {"key": "é"}
        assert sorted(ours.names) == sorted(theirs.keys()) == sorted(TENSORS)
        for name, tensor in TENSORS.items():
            for found in (ours.tensor(name), theirs.get_tensor(name)):
                assert found.dtype == tensor.dtype
                assert torch.equal(found, tensor)


def test_what_is_read_is_no_view_of_the_file(file):
    with StateFile(file) as opened:
        opened.tensor("a").zero_()
        assert torch.equal(opened.tensor("a"), TENSORS["a"])


@pytest.mark.parametrize("size", [0, 4, 40, -1])
def test_a_file_that_is_cut_off_is_none(size, file):
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"cut off|longer than the file|bytes that its header"):
        StateFile(file)
