"""Checkpoints: Hugging Face folders, read by their headers and written in one atomic step."""

from treadle.core.checkpoint.copying import copy_checkpoint
from treadle.core.checkpoint.hashing import content_hash
from treadle.core.checkpoint.header import PlannedTensor, TensorInfo
from treadle.core.checkpoint.manifest import (
    Manifest,
    Parent,
    Provenance,
    SideFile,
    model_card,
    read_manifest,
)
from treadle.core.checkpoint.publish import prepare_target, require_elsewhere
from treadle.core.checkpoint.reader import CheckpointReader, require_finite
from treadle.core.checkpoint.sidefiles import require_understood, side_file
from treadle.core.checkpoint.writer import CheckpointWriter

__all__ = [
    "CheckpointReader",
    "CheckpointWriter",
    "Manifest",
    "Parent",
    "PlannedTensor",
    "Provenance",
    "SideFile",
    "TensorInfo",
    "content_hash",
    "copy_checkpoint",
    "model_card",
    "prepare_target",
    "read_manifest",
    "require_elsewhere",
    "require_finite",
    "require_understood",
    "side_file",
]
