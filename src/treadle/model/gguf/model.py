"""A GGUF file as a checkpoint: its tensors in the words and orders of transformers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from treadle.core.checkpoint import TensorInfo
from treadle.core.codec import Array
from treadle.core.errors import CheckpointError, UnsupportedModelError
from treadle.model.coded import BLOCK, Coded, DecodedReader, Obstacle, RawBlocks, Stored
from treadle.model.gguf.config import ROPE_TENSORS, gguf_config
from treadle.model.gguf.dialects import EXPERT, GgufDialect, dialect_of
from treadle.model.gguf.file import GgufFile, GgufTensor
from treadle.model.gguf.settings import CONVERT_AGAIN
from treadle.model.gguf.types import PLAIN, form_of, numbers

__all__ = ["open_gguf"]

_BLOCKS_OF_32 = ("Q8_0", "Q4_0", "Q4_1")
"""Types whose codes and scales are handed out as `Coded`."""
Config = dict[str, Any]  # Any: JSON values
Order = tuple[int, int, int, int]
"""Rows lie as [a, b, c, d], and belong as [a, c, b, d]."""


def open_gguf(path: Path) -> DecodedReader:
    """Open a GGUF file, or all parts of a split one, of an architecture of `dialects`.

    Raises:
        CheckpointError: The file is damaged, or a part of the model is missing.
        UnsupportedModelError: The architecture, a tensor or its type is not known.
    """
    file = GgufFile(path)
    dialect = dialect_of(file)
    config = gguf_config(file, dialect.model_type, dialect.model_class)
    stored: dict[str, Stored] = {}
    for name, tensor in file.tensors.items():
        if name not in ROPE_TENSORS:
            stored |= dict(_stored(file, name, tensor, config, dialect))
    return DecodedReader(path, config, stored, file.close)


def _rename(file: GgufFile, name: str, dialect: GgufDialect) -> str:
    """Return a tensor's name in the folder, in which `EXPERT` stands where it is a stack."""
    stem, _, leaf = name.rpartition(".")
    parts = stem.split(".")
    if stem in dialect.outer:
        return f"{dialect.outer[stem]}.{leaf}"
    if parts[0] == "blk" and len(parts) == 3 and parts[2] in dialect.names:
        return f"{dialect.blocks}{parts[1]}.{dialect.names[parts[2]]}.{leaf}"
    stack = f"{parts[2]}_exps" if parts[0] == "blk" and len(parts) == 4 else ""
    if stack in dialect.names and parts[3].isdecimal():  # experts of files of old, one by one
        own = dialect.names[stack].replace(EXPERT, parts[3])
        return f"{dialect.blocks}{parts[1]}.{own}.{leaf}"
    raise UnsupportedModelError(
        f"Tensor '{name}' in '{file.path}' is none that a {dialect.model_type} is known to have; "
        f"give the Hugging Face folder of the model."
    )


class _GgufStored(NamedTuple):
    """A tensor of a GGUF file, or an expert's part of one, in transformers' order of rows."""

    file: GgufFile
    type: str
    raw: TensorInfo
    """Where its bytes lie: U8 [rows, bytes of a row]."""
    info: TensorInfo
    order: Order | None
    shift: float
    is_transposed: bool

    def floats(self) -> Array:
        shape = self.info.shape[::-1] if self.is_transposed else self.info.shape
        values: Array = numbers(self.type, self.file.view(self.raw)).reshape(shape)
        values = self._ordered(values)
        values = values.T if self.is_transposed else values
        return values.astype(np.float32) - np.float32(self.shift) if self.shift else values

    def coded(self) -> Coded | RawBlocks | Obstacle | None:
        if self.type in PLAIN:
            return None
        if self.is_transposed:
            return Obstacle("it lies transposed")
        raw = self.file.view(self.raw)
        if (form := form_of(self.type)) is not None:
            return RawBlocks(form, self._ordered(raw), self.info.shape[-1])
        if self.type not in _BLOCKS_OF_32:
            return Obstacle(f"no kernel multiplies {self.type}")
        num_blocks = self.info.shape[-1] // BLOCK
        blocks = raw.reshape(len(raw), num_blocks, -1)
        head = 4 if self.type == "Q4_1" else 2
        halves = blocks[:, :, :head].view(np.float16)
        codes, scales = self._ordered(blocks[:, :, head:]), self._ordered(halves[:, :, 0])
        if self.type == "Q8_0":
            return Coded("q8", codes.view(np.int8), scales, None)
        if self.type == "Q4_0":
            return Coded("q4_0", codes, scales, scales * np.float16(-8))
        return Coded("q4_1", codes, scales, self._ordered(halves[:, :, 1]))

    def release(self) -> None:
        self.file.release(self.raw)

    def _ordered(self, rows: Array) -> Array:
        """Undo llama.cpp's order of rows."""
        if self.order is None:
            return rows
        pairs = rows.reshape(*self.order, *rows.shape[1:])
        return pairs.swapaxes(1, 2).reshape(rows.shape)


def _stored(
    file: GgufFile, name: str, tensor: GgufTensor, config: Config, dialect: GgufDialect
) -> Iterator[tuple[str, _GgufStored]]:
    """Yield what a tensor is in the folder: itself, or one matrix for each expert."""
    own, raw = _rename(file, name, dialect), tensor.raw
    num_experts = tensor.shape[0] if EXPERT in own else 1
    shape = tensor.shape[1:] if EXPERT in own else tensor.shape
    if EXPERT in own:
        _require_experts(file, name, tensor, config)
    if own.endswith("shared_expert_gate.weight"):  # some converters drop its axis of one row
        shape = (1, shape[-1])
    is_transposed = dialect.transposes and own.startswith(dialect.blocks) and len(shape) == 2
    shift = dialect.norm_shift if own.endswith("norm.weight") else 0.0
    dtype = tensor.type if tensor.type in PLAIN and not shift else "F32"
    num_rows, num_bytes = raw.shape[0] // num_experts, raw.num_bytes // num_experts
    for expert in range(num_experts):
        part = raw._replace(
            shape=(num_rows, raw.shape[1]),
            start_byte=raw.start_byte + expert * num_bytes,
            num_bytes=num_bytes,
        )
        its = own.replace(EXPERT, str(expert))
        info = part._replace(name=its, dtype=dtype, shape=shape[::-1] if is_transposed else shape)
        order = _order(file, name, (its, shape), config, dialect)
        yield its, _GgufStored(file, tensor.type, part, info, order, shift, is_transposed)


def _require_experts(file: GgufFile, name: str, tensor: GgufTensor, config: Config) -> None:
    said = config.get("num_experts", config.get("num_local_experts"))
    if len(tensor.shape) != 3 or tensor.shape[0] != said:
        raise CheckpointError(
            f"Tensor '{name}' in '{file.path}' has shape {list(tensor.shape)}, but a matrix for "
            f"each of {said} experts (expert_count) was expected; {CONVERT_AGAIN}."
        )


def _order(
    file: GgufFile,
    name: str,
    own: tuple[str, tuple[int, ...]],
    config: Config,
    dialect: GgufDialect,
) -> Order | None:
    """Return how the rows of a tensor lie, where they do not lie as they belong."""
    shape, role = own[1], own[0].split(".")[-2]
    keys = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
    if dialect.order == "rotated" and role in keys:
        num_heads, per_head = int(config[keys[role]]), 2
    elif dialect.order == "fused" and role == "query_key_value":
        num_heads, per_head = int(config["num_attention_heads"]), 3
    else:
        return None
    if shape[0] % (per_head * num_heads):
        raise CheckpointError(
            f"Tensor '{name}' in '{file.path}' has {shape[0]} rows, which {num_heads} heads do not "
            f"share evenly; {CONVERT_AGAIN}."
        )
    rest = shape[0] // (per_head * num_heads)
    return (num_heads, rest, 2, 1) if per_head == 2 else (1, 3, num_heads, rest)
