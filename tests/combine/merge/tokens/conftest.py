"""Models with added tokens, and their open files."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from combine.merge.tokens.pairs import NAME, Make
from treadle.combine.merge.inputs.sources import WeightFiles
from treadle.core.checkpoint import CheckpointReader


@pytest.fixture
def make(llama: Path, tmp_path: Path) -> Make:
    """Return a function that writes a llama with added tokens, and rows for them and more."""
    from transformers import AutoTokenizer

    def build(
        name: str,
        added: tuple[str, ...] = (),
        special: tuple[str, ...] = (),
        padding: int = 0,
        template: str | None = None,
    ) -> CheckpointReader:
        folder = tmp_path / name
        shutil.copytree(llama, folder)
        tokenizer = AutoTokenizer.from_pretrained(llama)
        tokenizer.add_tokens(list(added))
        tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
        tokenizer.chat_template = template
        tokenizer.save_pretrained(folder)
        tensors = load_file(folder / "model.safetensors")
        num_rows = len(tokenizer) + padding
        random = np.random.default_rng(sum(name.encode()))
        tensors[NAME] = random.normal(size=(num_rows, 64)).astype(np.float32)
        save_file(tensors, folder / "model.safetensors")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"vocab_size": num_rows}))
        return CheckpointReader(folder)

    return build


@pytest.fixture
def files() -> Iterator[WeightFiles]:
    opened = WeightFiles()
    yield opened
    opened.close()
