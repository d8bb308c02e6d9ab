"""Damage to the safetensors files of a model folder, by rule; not a test itself."""

import json
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
Damage = Callable[[Path], None]
Q_PROJ = "model.layers.1.self_attn.q_proj.weight"
DOWN = "model.layers.0.mlp.down_proj.weight"
EMBED = "model.embed_tokens.weight"
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 269060552\n"


def header(file: Path) -> tuple[dict[str, Any], bytes]:
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def rewritten(file: Path, text: str | bytes, data: bytes) -> None:
    raw = text if isinstance(text, bytes) else text.encode()
    file.write_bytes(struct.pack("<Q", len(raw)) + raw + data)


def cut(num_bytes: Callable[[bytes], int]) -> Damage:
    def damage(folder: Path) -> None:
        content = (folder / SINGLE).read_bytes()
        (folder / SINGLE).write_bytes(content[: num_bytes(content)])

    return damage


def replaced(content: bytes) -> Damage:
    return lambda folder: (folder / SINGLE).write_bytes(content) and None


def entry(name: str, **fields: Any) -> Damage:
    """Say something else of one tensor in the header."""

    def damage(folder: Path) -> None:
        entries, data = header(folder / SINGLE)
        entries[name] |= fields
        rewritten(folder / SINGLE, json.dumps(entries), data)

    return damage


def head(change: Callable[[dict[str, Any]], Any]) -> Damage:
    def damage(folder: Path) -> None:
        entries, data = header(folder / SINGLE)
        rewritten(folder / SINGLE, json.dumps(change(entries)), data)

    return damage


def prefix(value: int) -> Damage:
    """Say another length of the header."""

    def damage(folder: Path) -> None:
        content = (folder / SINGLE).read_bytes()
        (folder / SINGLE).write_bytes(struct.pack("<Q", value) + content[8:])

    return damage


def flipped(seed: int) -> Damage:
    """Turn a few bits of the header."""

    def damage(folder: Path) -> None:
        draw = np.random.default_rng(seed)
        content = bytearray((folder / SINGLE).read_bytes())
        (length,) = struct.unpack("<Q", content[:8])
        for place in draw.integers(0, 8 + length, 3):
            content[place] ^= 1 << int(draw.integers(0, 8))
        (folder / SINGLE).write_bytes(content)

    return damage


def tensors(change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray] | None]) -> Damage:
    """Write other tensors, soundly."""

    def damage(folder: Path) -> None:
        stored = load_file(folder / SINGLE)
        found = change(stored)
        contiguous = {
            name: np.ascontiguousarray(values) for name, values in (found or stored).items()
        }
        save_file(contiguous, folder / SINGLE, {"format": "pt"})

    return damage


def tensor(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Damage:
    return tensors(lambda stored: {**stored, name: change(stored[name])})


def without(*names: str) -> Damage:
    return tensors(lambda s: {key: value for key, value in s.items() if not key.startswith(names)})


def renamed(old: str, new: str) -> Damage:
    return tensors(lambda s: {key.replace(old, new): value for key, value in s.items()})


def added(name: str, *shape: int) -> Damage:
    return tensors(lambda stored: {**stored, name: np.ones(shape, np.float32)})


def spoilt(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        values = values.copy()
        values.reshape(-1)[7] = value
        return values

    return change


def _duplicate(folder: Path) -> None:
    entries, data = header(folder / SINGLE)
    text = json.dumps(entries)
    again = json.dumps({EMBED: entries[DOWN]})[1:-1]
    rewritten(folder / SINGLE, text[:-1] + ", " + again + "}", data)


def _instead(make: Callable[[Path], Any]) -> Damage:
    """Put something else in the place of the file."""

    def damage(folder: Path) -> None:
        (folder / SINGLE).unlink()
        make(folder / SINGLE)

    return damage


def sharded(folder: Path) -> dict[str, str]:
    """Turn a folder into one of two shards, and return its index's weight_map."""
    stored = load_file(folder / SINGLE)
    (folder / SINGLE).unlink()
    names = [f"model-0000{place}-of-00002.safetensors" for place in (1, 2)]
    where = {key: names[place % 2] for place, key in enumerate(sorted(stored))}
    for shard in names:
        part = {key: value for key, value in stored.items() if where[key] == shard}
        save_file(part, folder / shard, {"format": "pt"})
    write_index(folder, where)
    return where


def write_index(folder: Path, where: Any) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))


def index(change: Callable[[Path, dict[str, str]], Any]) -> Damage:
    """Shard the folder and write what `change` makes of its weight_map."""

    def damage(folder: Path) -> None:
        found = change(folder, sharded(folder))
        if found is not None:
            write_index(folder, found)

    return damage


def index_text(text: str) -> Damage:
    return index(lambda folder, _: (folder / INDEX).write_text(text) and None)


def shard(change: Callable[[Path], Any]) -> Damage:
    def damage(folder: Path) -> None:
        sharded(folder)
        change(folder / "model-00002-of-00002.safetensors")

    return damage


def _bytes() -> Iterator[tuple[str, Damage]]:
    for name, length in {
        "empty": lambda c: 0,
        "4 bytes": lambda c: 4,
        "8 bytes": lambda c: 8,
        "inside the header": lambda c: 300,
        "half": lambda c: len(c) // 2,
        "one byte short": lambda c: len(c) - 1,
        "one tensor short": lambda c: len(c) - 64 * 64 * 4,
    }.items():
        yield f"cut: {name}", cut(length)
    yield "bytes behind the end", lambda folder: _append(folder / SINGLE, b"0" * 1000)
    for value in (0, 1, 2**31, 2**63, 2**64 - 1):
        yield f"header length {value}", prefix(value)
    for seed in range(12):
        yield f"header bits {seed}", flipped(seed)
    yield "an LFS pointer", replaced(LFS.format("a" * 64).encode())
    yield "a pickle", replaced(b"\x80\x02}q\x00X\x01\x00\x00\x00aq\x01K\x01s.")
    yield "a zip", replaced(b"PK\x03\x04" + b"\0" * 100)
    yield "a web page", replaced(b"<!DOCTYPE html><html><body>404</body></html>" * 20)
    yield "spaces", replaced(b" " * 4096)
    yield "zeros", replaced(b"\0" * 4096)


def _append(file: Path, content: bytes) -> None:
    with file.open("ab") as stream:
        stream.write(content)


def _headers() -> Iterator[tuple[str, Damage]]:
    yield "header is a list", head(lambda entries: list(entries))
    yield "header is a number", head(lambda _: 7)
    yield "header is empty", head(lambda _: {})
    yield "header is deep", lambda f: rewritten(f / SINGLE, "[" * 100_000, b"\0" * 64)
    yield "header is no UTF-8", lambda f: rewritten(f / SINGLE, b'{"\xff\xfe": 1}', b"")
    yield "a tensor twice", _duplicate
    yield "an entry is a string", head(lambda entries: {**entries, DOWN: "F32"})
    yield "an entry is null", head(lambda entries: {**entries, DOWN: None})
    yield "metadata is a list", head(lambda entries: {**entries, "__metadata__": [1]})
    for field in ("dtype", "shape", "data_offsets"):
        yield (
            f"no {field}",
            head(
                lambda entries, field=field: {
                    **entries,
                    DOWN: {key: value for key, value in entries[DOWN].items() if key != field},
                }
            ),
        )
        yield f"{field} is null", entry(DOWN, **{field: None})
    for dtype in ("Q7", "F64", "F16", "f32", "", 3, ["F32"]):
        yield f"dtype {dtype!r}", entry(DOWN, dtype=dtype)
    for shape in ([64], [96, 64], [64, -96], [-64, -96], [2**40, 2**40], [64.5, 96], ["64", 96]):
        if shape != [96, 64]:  # another order of equal bytes is found by the config alone
            yield f"shape {shape}", entry(DOWN, shape=shape)
    yield "shape turned", entry(DOWN, shape=[96, 64])
    yield "shape is a number", entry(DOWN, shape=64)
    for offsets in ([0, 1], [0], [5, 3], [-8, 8], [0, 2**60], [0.5, 24576.5], "ab"):
        yield f"offsets {offsets}", entry(DOWN, data_offsets=offsets)


def _names() -> Iterator[tuple[str, Damage]]:
    for part in (
        *("self_attn.q_proj.weight", "self_attn.o_proj.weight", "mlp.gate_proj.weight"),
        *("mlp.down_proj.weight", "input_layernorm.weight", "post_attention_layernorm.weight"),
    ):
        yield f"without {part}", without(f"model.layers.1.{part}")
    yield "without the embedding", without(EMBED)
    yield "without the last norm", without("model.norm.")
    yield "without a layer", without("model.layers.1.")
    yield "without all layers", without("model.layers.")
    yield "no tensors", tensors(lambda _: {"x": np.ones(1, np.float32)})
    yield "a name misspelt", renamed("layers.1.mlp.up_proj", "layers.1.mlp.up_projj")
    yield "a layer's number misspelt", renamed("layers.1.", "layers.01.")
    yield "layers counted from one", tensors(
        lambda s: {k.replace("layers.1.", "layers.2.").replace("layers.0.", "layers.1."): v
                   for k, v in s.items()}
    )  # fmt: skip
    yield "names in capitals", tensors(lambda s: {k.upper(): v for k, v in s.items()})
    yield (
        "prefix of a compiled module",
        tensors(lambda s: {f"_orig_mod.{k}": v for k, v in s.items()}),
    )
    yield "prefix of parallel training", tensors(lambda s: {f"module.{k}": v for k, v in s.items()})
    yield "one name with another prefix", renamed("model.norm.", "transformer.norm.")
    yield "a weight more in a block", added("model.layers.0.mlp.extra.weight", 4, 4)
    yield "a bias more in a block", added("model.layers.0.self_attn.q_proj.bias", 64)
    yield (
        "a layer more",
        tensors(
            lambda s: (
                s | {k.replace("layers.1", "layers.2"): v for k, v in s.items() if "layers.1" in k}
            )
        ),
    )
    yield (
        "an adapter's weights between",
        added("model.layers.0.self_attn.q_proj.lora_A.weight", 4, 64),
    )
    yield "a name that is empty", added("", 4)
    yield "a name that is a path", added("../../etc/passwd", 4)


def _shapes() -> Iterator[tuple[str, Damage]]:
    yield "a matrix turned", tensor(DOWN, lambda w: w.T)
    yield "a matrix flat", tensor(Q_PROJ, lambda w: w.reshape(-1))
    yield "a matrix with a third axis", tensor(Q_PROJ, lambda w: w[None])
    yield "a row less", tensor(Q_PROJ, lambda w: w[:-1])
    yield "a column less", tensor(Q_PROJ, lambda w: w[:, :-1])
    yield "a norm longer", tensor("model.norm.weight", lambda w: np.concatenate([w, w[:1]]))
    yield "a norm as a scalar", tensor("model.norm.weight", lambda w: w[0].reshape(()))
    yield "a matrix of nothing", tensor(DOWN, lambda w: w[:0])
    yield "fewer rows of the embedding", tensor(EMBED, lambda w: w[:100])
    yield "more rows of the embedding", tensor(EMBED, lambda w: np.concatenate([w, w[:8]]))
    for value in (np.nan, np.inf, -np.inf):
        for name in (EMBED, Q_PROJ, "model.norm.weight", "model.layers.0.input_layernorm.weight"):
            yield f"{value} in {name}", tensor(name, spoilt(value))
    for dtype in (np.int8, np.int32, np.int64, np.uint8, np.bool_, np.complex64):
        yield f"integers {dtype.__name__}", tensor(DOWN, lambda w, d=dtype: w.astype(d))
    yield "huge", tensor(DOWN, lambda w: np.full_like(w, 3e38))


def _links() -> Iterator[tuple[str, Damage]]:
    yield "a folder in its place", _instead(lambda file: file.mkdir())
    yield "a link to nothing", _instead(lambda file: file.symlink_to("gone.safetensors"))
    yield "a link to itself", _instead(lambda file: file.symlink_to(SINGLE))
    yield "a link to a folder", _instead(lambda file: file.symlink_to("."))
    yield "a pipe", _instead(os.mkfifo)
    yield "nothing", _instead(lambda file: None)
    yield (
        "a checkpoint of torch alone",
        _instead(lambda file: file.with_name("pytorch_model.bin").write_bytes(b"x")),
    )


def _indices() -> Iterator[tuple[str, Damage]]:
    for text in ("", "{", "[]", "7", "null", '{"weight_map": null}', '{"weight_map": []}', "{}"):
        yield f"index {text!r}", index_text(text)
    yield "index is empty", index(lambda _, where: {})
    yield "index of numbers", index(lambda _, where: dict.fromkeys(where, 7))
    yield "index of lists", index(lambda _, where: {key: [value] for key, value in where.items()})
    yield "index names a lost shard", index(lambda _, where: {**where, EMBED: "gone.safetensors"})
    yield "index names a folder", index(lambda _, where: {**where, EMBED: "."})
    yield "index leads out", index(lambda _, where: {**where, EMBED: "../../model.safetensors"})
    yield "index is absolute", index(lambda _, where: {**where, EMBED: "/etc/passwd"})
    yield "index knows more", index(lambda _, where: {**where, "model.more": where[EMBED]})
    yield "index swaps shards", index(
        lambda _, where: {k: v.replace("1-of", "x").replace("2-of", "1-of").replace("x", "2-of")
                          for k, v in where.items()}
    )  # fmt: skip
    yield "a shard is empty", shard(lambda file: file.write_bytes(b""))
    yield "a shard is gone", shard(lambda file: file.unlink())
    yield "a shard is an LFS pointer", shard(lambda file: file.write_text(LFS.format("b" * 64)))
    yield "a shard is short", shard(lambda file: file.write_bytes(file.read_bytes()[:-5]))


DAMAGES: dict[str, Damage] = dict(
    one for family in (_bytes, _headers, _names, _shapes, _links, _indices) for one in family()
)
"""What is wrong -> what makes it so, in a folder of one safetensors file."""
HARMLESS: dict[str, Damage] = {
    "nothing": lambda folder: None,
    "two shards": lambda folder: sharded(folder) and None,
    "index that leaves tensors out": index(
        lambda _, where: {key: value for key, value in where.items() if key != EMBED}
    ),
    "double precision": tensor(DOWN, lambda w: w.astype(np.float64)),
    "old buffers": added("model.layers.0.self_attn.rotary_emb.inv_freq", 8),
    "a bias of zeros": tensors(
        lambda s: {**s, "model.layers.0.self_attn.q_proj.bias": np.zeros(64, np.float32)}
    ),
    "the tied head beside": tensors(lambda s: {**s, "lm_head.weight": s[EMBED].copy()}),
    "without the prefix": tensors(lambda s: {k.removeprefix("model."): v for k, v in s.items()}),
}
"""What must change no number."""
