"""Damage to config.json and the small files beside the weights, by rule; not a test itself."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Damage = Callable[[Path], None]
CONFIG = "config.json"
GONE = object()


def said(file: str = CONFIG, /, **fields: Any) -> Damage:
    """Say something else in a folder's JSON file; GONE takes a key away."""

    def damage(folder: Path) -> None:
        config = json.loads((folder / file).read_text()) | fields
        kept = {key: value for key, value in config.items() if value is not GONE}
        (folder / file).write_text(json.dumps(kept))

    return damage


def file(name: str, content: str | bytes | None) -> Damage:
    """Write a file, or take it away."""

    def damage(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        elif content is not None:
            (folder / name).write_text(content)

    return damage


def instead(name: str, make: Callable[[Path], Any]) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return damage


def _marked(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


def _files() -> Iterator[tuple[str, Damage]]:
    yield "no config", file(CONFIG, None)
    for text in ("", "{", "[]", "7", "null", '"llama"', "{}", "<html></html>", '{"a": NaN}'):
        yield f"config {text!r}", file(CONFIG, text)
    yield "config of bytes", file(CONFIG, b"\xff\xfe{\x00}\x00")
    yield "config with a byte order mark", lambda folder: _marked(folder / CONFIG)
    yield "config is a folder", instead(CONFIG, lambda path: path.mkdir())
    yield "config is a link to nothing", instead(CONFIG, lambda path: path.symlink_to("gone"))
    yield "config is deep", file(CONFIG, "[" * 100_000)
    for text in ("", "{", "[]", "null", '{"version": 1}', "<html></html>"):
        yield f"tokenizer {text!r}", file("tokenizer.json", text)
        yield f"tokenizer config {text!r}", file("tokenizer_config.json", text)
        yield f"manifest {text!r}", file("treadle.json", text)
        yield f"generation config {text!r}", file("generation_config.json", text)
    yield "no tokenizer", file("tokenizer.json", None)
    yield (
        "a required side file of nobody",
        file(
            "treadle.json",
            json.dumps({"format": 2, "side_files": [{"kind": "x", "path": "x", "required": True}]}),
        ),
    )


def _numbers() -> Iterator[tuple[str, Damage]]:
    keys = (
        *("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads"),
        *("num_key_value_heads", "head_dim", "vocab_size", "max_position_embeddings"),
    )
    for key in keys:
        for value in (0, -1, 3, 1000, "2", 2.5, True, [2], {"a": 1}):
            yield f"{key} {value!r}", said(**{key: value})
    yield "num_hidden_layers beyond all memory", said(num_hidden_layers=2**31)
    for key in ("rms_norm_eps", "rope_theta", "attention_dropout", "initializer_range"):
        for value in ("x", [1]):
            yield f"{key} {value!r}", said(**{key: value})
    for key in keys[:5]:
        yield f"{key} is null", said(**{key: None})
        yield f"{key} is gone", said(**{key: GONE})


def _words() -> Iterator[tuple[str, Damage]]:
    for value in ("", "lama", "bert", "t5", "llama ", 7, None, ["llama"], GONE):
        shown = "gone" if value is GONE else repr(value)
        yield f"model_type {shown}", said(model_type=value)
    for value in ("relu9", "", 7, None, ["silu"]):
        yield f"hidden_act {value!r}", said(hidden_act=value)
    for value in ("float99", 7, ["float32"]):
        yield f"dtype {value!r}", said(dtype=value, torch_dtype=value)
    for value in ("yes", 7, [True], "false"):
        yield f"tie {value!r}", said(tie_word_embeddings=value)
    yield "untied without a head", said(tie_word_embeddings=False)
    for value in ([], "LlamaForCausalLM", [7], ["BertModel"], None, True, {"a": 1}):
        yield f"architectures {value!r}", said(architectures=value)


def _parts() -> Iterator[tuple[str, Damage]]:
    for value in ({}, [], "gptq", {"quant_method": "nobody"}, {"quant_method": 7}):
        yield f"quantization {value!r}", said(quantization_config=value)
    for value in (
        *("linear", [], 7, {"type": "nobody"}, {"rope_type": 7}, {"type": "linear"}),
        *({"rope_type": "linear", "factor": "x"}, {"rope_type": "linear", "factor": -1.0}),
        *({"rope_type": "llama3"}, {"rope_type": "yarn", "factor": 2.0, "extra": 1}),
    ):
        yield f"rope_scaling {value!r}", said(rope_scaling=value, rope_parameters=GONE)
    for value in ("x", 7, {"AutoModelForCausalLM": "code.Model"}):
        yield f"auto_map {value!r}", said(auto_map=value)
    for value in (7, [], {"model_type": "llama"}, None):
        yield f"text_config {value!r}", said(text_config=value)
    for value in (-1, 10**9, "x", [1, "a"], {"a": 1}):
        yield f"eos_token_id {value!r}", said(eos_token_id=value, bos_token_id=value)
    yield "treadle_nonuniform", said(model_type="treadle_nonuniform")
    yield "treadle_base 7", said(model_type="treadle_nonuniform", treadle_base=7)


DAMAGES: dict[str, Damage] = dict(
    one for family in (_files, _numbers, _words, _parts) for one in family()
)
"""What is wrong -> what makes it so."""
HARMLESS: dict[str, Damage] = {
    "keys of nobody": said(**{"x-of-nobody": [1, {"a": None}], "_name_or_path": "/gone"}),
    "no generation config": file("generation_config.json", None),
}
"""What must change no number."""
