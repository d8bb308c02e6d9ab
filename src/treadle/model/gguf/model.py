"""A GGUF file as a checkpoint: its tensors in the words and orders of transformers."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from treadle.core.checkpoint import TensorInfo
from treadle.core.codec import Array
from treadle.core.errors import CheckpointError, UnsupportedModelError
from treadle.model.coded import BLOCK, Coded, DecodedReader, Obstacle, RawBlocks, Stored
from treadle.model.gguf.config import (
    CONVERT_AGAIN,
    ROPE_FACTORS,
    gguf_config,
    require_setting,
)
from treadle.model.gguf.file import GgufFile, GgufTensor
from treadle.model.gguf.types import PLAIN, form_of, numbers

__all__ = ["open_gguf"]

_BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GEMMA_NAMES = _BLOCK_NAMES | {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_OUTER_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


class _Dialect(NamedTuple):
    """How llama.cpp writes one of transformers' architectures."""

    model_type: str
    model_class: str
    names: dict[str, str]
    interleaves: bool = False
    """Whether the halves that rope rotates are interleaved, in the rows of queries and keys."""
    norm_shift: float = 0.0
    """What is added to the weights of norms."""


_DIALECTS = {
    "llama": _Dialect("llama", "LlamaForCausalLM", _BLOCK_NAMES, interleaves=True),
    "qwen2": _Dialect("qwen2", "Qwen2ForCausalLM", _BLOCK_NAMES),
    "qwen3": _Dialect("qwen3", "Qwen3ForCausalLM", _BLOCK_NAMES),
    "gemma2": _Dialect("gemma2", "Gemma2ForCausalLM", _GEMMA_NAMES, norm_shift=1.0),
    "gemma3": _Dialect("gemma3_text", "Gemma3ForCausalLM", _GEMMA_NAMES, norm_shift=1.0),
}
"""`general.architecture` -> dialect; llama.cpp calls mistral a llama, too."""
_BLOCKS_OF_32 = ("Q8_0", "Q4_0", "Q4_1")
"""Types whose codes and scales are handed out as `Coded`."""


def open_gguf(path: Path) -> DecodedReader:
    """Open a GGUF file of a llama (or mistral), qwen2, qwen3, gemma2 or gemma3.

    Raises:
        CheckpointError: The file is damaged, or a part of the model is missing.
        UnsupportedModelError: The architecture, a tensor or its type is not known.
    """
    file = GgufFile(path)
    architecture = require_setting(file, "general.architecture", "a text")
    if architecture not in _DIALECTS:
        raise UnsupportedModelError(
            f"'{path}' holds the architecture '{architecture}', but GGUF files are read of "
            f"{', '.join(_DIALECTS)} only; give the Hugging Face folder of the model."
        )
    dialect = _DIALECTS[architecture]
    config = gguf_config(file, dialect.model_type, dialect.model_class)
    stored: dict[str, Stored] = {}
    for name, tensor in file.tensors.items():
        if name != ROPE_FACTORS:
            own = _rename(file, name, dialect)
            stored[own] = _stored(file, name, tensor, own, config, dialect)
    return DecodedReader(path, config, stored, file.close)


def _rename(file: GgufFile, name: str, dialect: _Dialect) -> str:
    if name in _OUTER_NAMES:
        return _OUTER_NAMES[name]
    parts = name.split(".")
    if len(parts) != 4 or parts[0] != "blk" or parts[2] not in dialect.names:
        raise UnsupportedModelError(
            f"Tensor '{name}' in '{file.path}' is none that a {dialect.model_type} is known to "
            f"have; give the Hugging Face folder of the model."
        )
    return f"model.layers.{parts[1]}.{dialect.names[parts[2]]}.{parts[3]}"


class _GgufStored(NamedTuple):
    """A tensor of a GGUF file, in transformers' order of rows."""

    file: GgufFile
    name: str
    info: TensorInfo
    heads: int
    """Heads whose rows are interleaved; 0: none are."""
    shift: float

    def floats(self) -> Array:
        raw, (kind, shape, _) = self.file.raw(self.name), self.file.tensors[self.name]
        values: Array = numbers(kind, raw).reshape(shape)
        if self.shift:
            values = values.astype(np.float32) - np.float32(self.shift)
        return self._ordered(values)

    def coded(self) -> Coded | RawBlocks | Obstacle | None:
        kind, raw = self.file.tensors[self.name].type, self.file.raw(self.name)
        if kind in PLAIN:
            return None
        if (form := form_of(kind)) is not None:
            return RawBlocks(form, self._ordered(raw), self.info.shape[-1])
        if kind not in _BLOCKS_OF_32:
            return Obstacle(f"no kernel multiplies {kind}")
        num_blocks = self.info.shape[-1] // BLOCK
        blocks = raw.reshape(len(raw), num_blocks, -1)
        head = 4 if kind == "Q4_1" else 2
        halves = blocks[:, :, :head].view(np.float16)
        codes, scales = self._ordered(blocks[:, :, head:]), self._ordered(halves[:, :, 0])
        if kind == "Q8_0":
            return Coded("q8", codes.view(np.int8), scales, None)
        if kind == "Q4_0":
            return Coded("q4_0", codes, scales, scales * np.float16(-8))
        return Coded("q4_1", codes, scales, self._ordered(halves[:, :, 1]))

    def release(self) -> None:
        self.file.release(self.name)

    def _ordered(self, rows: Array) -> Array:
        """Undo llama.cpp's order of query and key rows."""
        if not self.heads:
            return rows
        pairs = rows.reshape(self.heads, -1, 2, *rows.shape[1:])
        return pairs.swapaxes(1, 2).reshape(rows.shape)


def _stored(
    file: GgufFile,
    name: str,
    tensor: GgufTensor,
    own: str,
    config: dict[str, Any],
    dialect: _Dialect,
) -> _GgufStored:
    heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
    key = heads.get(own.split(".")[-2]) if dialect.interleaves else None
    shift = dialect.norm_shift if own.endswith("norm.weight") else 0.0
    num_heads = int(config[key]) if key else 0
    if num_heads and tensor.shape[0] % (2 * num_heads):
        raise CheckpointError(
            f"Tensor '{name}' in '{file.path}' has {tensor.shape[0]} rows, which {num_heads} heads "
            f"do not share evenly; {CONVERT_AGAIN}."
        )
    dtype = tensor.type if tensor.type in PLAIN and not shift else "F32"
    return _GgufStored(
        file, name, tensor.raw._replace(name=own, dtype=dtype, shape=tensor.shape), num_heads, shift
    )
