"""Small models for the tests of the checkpoint writer; not a test itself."""

from pathlib import Path

import numpy as np

from treadle.core.checkpoint import (
    CheckpointWriter,
    Manifest,
    PlannedTensor,
    Provenance,
)
from treadle.core.codec import DTYPES

MANIFEST = Manifest(provenance=Provenance(verb="test"))
PLAN = [
    PlannedTensor("a", "F32", (4, 3)),
    PlannedTensor("b", "BF16", (5,)),
    PlannedTensor("c", "U8", (2, 2)),
    PlannedTensor("d", "F16", ()),
]


def values_of(tensor: PlannedTensor) -> np.ndarray:
    flat = np.arange(tensor.num_elements) % 251 + len(tensor.name)
    return flat.reshape(tensor.shape).astype(DTYPES[tensor.dtype])


def begin(out: Path, plan: list[PlannedTensor] = PLAN, **settings: object) -> CheckpointWriter:
    chosen = {"parent": None, "config": {"model_type": "llama"}, "fingerprint": "f"} | settings
    return CheckpointWriter(out, plan, **chosen)


def write_model(out: Path, plan: list[PlannedTensor] = PLAN, **settings: object) -> Path:
    with begin(out, plan, **settings) as writer:
        for tensor in plan:
            writer.write(tensor.name, values_of(tensor))
        writer.finish(MANIFEST, "card\n")
    return out


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*")}


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"cache"}
