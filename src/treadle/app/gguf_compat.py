"""Which loader takes a GGUF file: read off its header."""

from pathlib import Path

from treadle.core.errors import TreadleError
from treadle.model.gguf.config import ROPE_TENSORS
from treadle.model.gguf.file import GgufFile
from treadle.model.gguf.model import open_gguf
from treadle.model.load import skeleton

__all__ = ["describe_gguf", "judge_gguf"]

_FOLDERS = "takes folders; treadle export {file} OUT makes one"


def describe_gguf(file: Path) -> str:
    """Return one line of what a file is.

    Raises:
        CheckpointError: It is damaged.
        UnsupportedModelError: A tensor's type is not read.
    """
    described = GgufFile(file)
    described.close()
    types = sorted({tensor.type for tensor in described.tensors.values()})
    files = len({tensor.raw.file for tensor in described.tensors.values()})
    said = (
        str(described.settings.get("general.architecture")),
        f"{len(described.tensors)} tensors in {files} file{'s' * (files != 1)}",
        " and ".join(types),
    )
    return f"{file}: GGUF, {', '.join(said)}"


def judge_gguf(file: Path) -> tuple[tuple[str, bool | None, str], ...]:
    """Return of each loader its name, whether it takes the file (None: not checked), and why."""
    try:
        with open_gguf(file) as reader:
            skeleton(reader)
        own: tuple[bool, str] = (True, f"reads it as a {reader.config['model_type']}")
    except TreadleError as error:
        own = (False, str(error))
    return (
        ("transformers", None, _for_transformers(file)),
        ("treadle", *own),
        ("vLLM", None, "reads some GGUF files, of one part; not checked here"),
        ("llama.cpp", own[0] or None, "its own format; not run here"),
        ("mergekit", False, _FOLDERS.format(file=file)),
    )


def _for_transformers(file: Path) -> str:
    described = GgufFile(file)
    described.close()
    has_scales = any(name in described.tensors for name in ROPE_TENSORS)
    if has_scales or any(".rope.scaling." in key for key in described.settings):
        return "its reader leaves out what scales positions; " + _export(file)
    return "reads it as floats of 32 bits; not checked here"


def _export(file: Path) -> str:
    return f"treadle export {file} OUT makes a folder for it"
