"""Damage to GGUF files, by rule; not a test itself."""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

Damage = Callable[[Path], None]
KEYS = (
    *("general.architecture", "llama.block_count", "llama.embedding_length"),
    *("llama.feed_forward_length", "llama.attention.head_count", "llama.context_length"),
    *("llama.attention.head_count_kv", "llama.attention.layer_norm_rms_epsilon"),
    *("llama.rope.freq_base", "tokenizer.ggml.model", "tokenizer.ggml.tokens"),
)
TENSORS = (
    *("token_embd.weight", "output_norm.weight", "blk.0.attn_q.weight", "blk.1.ffn_down.weight"),
    *("blk.0.attn_norm.weight", "blk.1.ffn_norm.weight"),
)


def content(change: Callable[[bytearray], bytes | bytearray]) -> Damage:
    return lambda file: file.write_bytes(change(bytearray(file.read_bytes()))) and None


def put(place: int, form: str, value: int) -> Damage:
    """Write a number at a place, which may count from the end."""

    def change(raw: bytearray) -> bytearray:
        struct.pack_into(form, raw, place, value)
        return raw

    return content(change)


def misspelt(word: str) -> Damage:
    """Turn a letter of a name; its length stays."""
    other = word[:-2] + ("x" if word[-2] != "x" else "y") + word[-1]
    return content(lambda raw: raw.replace(word.encode(), other.encode()))


def value(key: str, form: str, number: float) -> Damage:
    """Write another value of a key, of the type that it has."""

    def change(raw: bytearray) -> bytearray:
        place = raw.index(struct.pack("<Q", len(key)) + key.encode()) + 8 + len(key)
        struct.pack_into(form, raw, place + 4, number)
        return raw

    return content(change)


def kind(key: str, code: int) -> Damage:
    """Say another type of a key's value."""

    def change(raw: bytearray) -> bytearray:
        place = raw.index(struct.pack("<Q", len(key)) + key.encode()) + 8 + len(key)
        struct.pack_into("<I", raw, place, code)
        return raw

    return content(change)


def tensor(name: str, skip: int, form: str, number: int) -> Damage:
    """Write into what is said of a tensor behind its name: axes, sizes, type, offset."""

    def change(raw: bytearray) -> bytearray:
        place = raw.index(struct.pack("<Q", len(name)) + name.encode()) + 8 + len(name)
        struct.pack_into(form, raw, place + skip, number)
        return raw

    return content(change)


def flipped(seed: int, first: int, last: int) -> Damage:
    def change(raw: bytearray) -> bytearray:
        draw = np.random.default_rng(seed)
        for place in draw.integers(first, min(last, len(raw)), 3):
            raw[place] ^= 1 << int(draw.integers(0, 8))
        return raw

    return content(change)


def _bytes() -> Iterator[tuple[str, Damage]]:
    for length in (0, 3, 4, 10, 24, 30, 100, 1000, 5000):
        yield f"cut: {length} bytes", content(lambda raw, n=length: raw[:n])
    for share in (0.3, 0.6, 0.9):
        yield f"cut: {share:.0%}", content(lambda raw, s=share: raw[: int(len(raw) * s)])
    yield "cut: one byte short", content(lambda raw: raw[:-1])
    yield "another magic", put(0, "<I", 0x46475547)
    for version in (0, 1, 99, 2**31):
        yield f"version {version}", put(4, "<I", version)
    yield "big-endian", put(4, ">I", 3)
    for number in (0, 1, 10**6, 2**62):
        yield f"{number} tensors", put(8, "<Q", number)
        yield f"{number} keys", put(16, "<Q", number)
    for seed in range(16):
        yield f"bits of the keys {seed}", flipped(seed, 0, 1500)
    for seed in range(8):
        yield f"bits of the tokenizer {seed}", flipped(seed, 1500, 12000)
    yield "a web page", content(lambda _: b"<!DOCTYPE html>" * 500)
    yield "an LFS pointer", content(lambda _: b"version https://git-lfs.github.com/spec/v1\n")
    yield "zeros", content(lambda raw: b"\0" * len(raw))


def _parts() -> Iterator[tuple[str, Damage]]:
    for key in KEYS:
        yield f"{key} misspelt", misspelt(key)
        for code in (0, 7, 9, 99):
            yield f"{key} of type {code}", kind(key, code)
    for key in KEYS[1:7]:
        for number in (0, 1, 3, 2**31):
            yield f"{key} = {number}", value(key, "<I", number)
    yield "an epsilon that is no number", value(KEYS[7], "<f", float("nan"))
    yield "a rope base of zero", value(KEYS[8], "<f", 0.0)


def _tensors() -> Iterator[tuple[str, Damage]]:
    for name in TENSORS:
        yield f"{name} misspelt", misspelt(name)
    for name in TENSORS[2:4]:
        for number in (0, 1, 3, 9, 2**30):
            yield f"{name} of {number} axes", tensor(name, 0, "<I", number)
        for number in (0, 1, 63, 2**40, 2**63):
            yield f"{name} of {number} columns", tensor(name, 4, "<Q", number)
        for code in (1, 2, 8, 14, 30, 99):
            yield f"{name} of type {code}", tensor(name, 20, "<I", code)
        for number in (1, 32, 10**7, 2**62):
            yield f"{name} at {number}", tensor(name, 24, "<Q", number)


DAMAGES: dict[str, Damage] = dict(one for family in (_bytes, _parts, _tensors) for one in family())
"""What is wrong -> what makes it so, in a file of a tiny llama in F32."""
