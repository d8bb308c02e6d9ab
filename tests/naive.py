"""What transformers computes when it is asked plainly: the reference of many tests; not a test
itself."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, PreTrainedModel

from treadle.core.checkpoint import CheckpointReader
from treadle.model import facts
from treadle.model.belonging import shapes_of
from treadle.model.facts import base_config

VOCAB_SIZE = 320


def tokens_of(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCAB_SIZE, (rows, length), generator=generator)


def plain_model(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def plain_losses(model: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor:
    """-log p of every token but the first, window by window, token by token."""
    found = torch.empty(tokens.shape[0], tokens.shape[1] - 1)
    for row in range(tokens.shape[0]):
        with torch.no_grad():
            logits = model(input_ids=tokens[row : row + 1]).logits[0]
        for place in range(tokens.shape[1] - 1):
            log_p = functional.log_softmax(logits[place].double(), dim=0)
            found[row, place] = -log_p[tokens[row, place + 1]]
    return found


def all_matrices(folder: Path) -> list[facts.Linear]:
    with CheckpointReader(folder) as reader:
        config, shapes = base_config(reader.config), shapes_of(reader)
    return [
        matrix
        for layer in range(facts.num_layers(config))
        for matrix in facts.linears(config, layer, shapes)
    ]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """Every matrix [out, in] by name, cut from the files by the facts."""
    found = {}
    with CheckpointReader(folder) as reader:
        for matrix in all_matrices(folder):
            stored = reader.tensor(matrix.tensor).float()
            stored = stored if matrix.place is None else stored[matrix.place]
            stored = stored.T if matrix.transposed else stored
            found[matrix.name] = stored[matrix.rows].clone()
    return found


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@contextmanager
def num_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
