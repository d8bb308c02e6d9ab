"""What the runtime reads: folders of floats, quantised folders, and GGUF files, by one door."""

import hashlib
from pathlib import Path

from treadle.core.checkpoint import CheckpointReader, content_hash
from treadle.model.gguf_model import open_gguf
from treadle.model.quantized import open_quantized

__all__ = ["open_model", "source_hash"]


def open_model(path: Path) -> CheckpointReader:
    """Open a model folder or a GGUF file; what is quantised comes as a `DecodedReader`.

    Raises:
        CheckpointError: The file or folder is damaged.
        UnsupportedModelError: How it is quantised is not read.
    """
    if path.is_file():
        return open_gguf(path)
    reader = CheckpointReader(path)
    return open_quantized(reader) if reader.config.get("quantization_config") else reader


def source_hash(path: Path) -> str:
    """Return a hash of a model's numbers: of a GGUF file, sha256 of its bytes."""
    if not path.is_file():
        return content_hash(path)
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
