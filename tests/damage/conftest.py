"""A sound folder of each kind, to be damaged; made once for all tests."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gguf_models import to_gguf
from runtime.adapters import write_adapter

Copy = Callable[[str], Path]


@pytest.fixture
def copied(tiny_model: Callable[..., Path], tmp_path: Path) -> Copy:
    """Return a function from what is wanted to a copy of it that may be damaged."""

    def copy(kind: str) -> Path:
        target = tmp_path / "damaged"
        if kind == "gguf":
            target.mkdir()
            to_gguf(tiny_model("llama"), target / "model.gguf")
        elif kind == "adapter":
            write_adapter(target, tiny_model("llama"))
        else:
            shutil.copytree(tiny_model(kind), target)
        return target

    return copy
