"""Damage to LoRA adapters in peft's format, by rule; not a test itself."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from damage import configs
from damage.configs import GONE, Damage, file, instead
from damage.weight_files import LFS

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
SECOND = FIRST.replace("lora_A", "lora_B")


def said(**fields: Any) -> Damage:
    """Say something else in the adapter's config."""
    return configs.said(CONFIG, **fields)


def tensors(change: Any) -> Damage:
    def damage(folder: Path) -> None:
        found = change(load_file(folder / WEIGHTS))
        save_file({k: np.ascontiguousarray(v) for k, v in found.items()}, folder / WEIGHTS)

    return damage


def tensor(name: str, change: Any) -> Damage:
    return tensors(lambda stored: {**stored, name: change(stored[name])})


def cut(length: Any) -> Damage:
    def damage(folder: Path) -> None:
        content = (folder / WEIGHTS).read_bytes()
        (folder / WEIGHTS).write_bytes(content[: length(len(content))])

    return damage


def _files() -> Iterator[tuple[str, Damage]]:
    yield "no config", file(CONFIG, None)
    for text in ("", "{", "[]", "null", "7", "{}", "[" * 100_000):
        yield f"config {text[:20]!r}", file(CONFIG, text)
    yield "config of bytes", file(CONFIG, b"\xff\xfe{\x00}\x00")
    yield "no weights", file(WEIGHTS, None)
    yield "a pickle alone", instead(WEIGHTS, lambda p: p.with_suffix(".bin").write_bytes(b"x"))
    yield "weights are a folder", instead(WEIGHTS, lambda path: path.mkdir())
    yield "weights are an LFS pointer", file(WEIGHTS, LFS.format("c" * 64))
    yield "cut: empty", cut(lambda size: 0)
    yield "cut: header", cut(lambda size: 100)
    yield "cut: half", cut(lambda size: size // 2)
    yield "cut: a byte", cut(lambda size: size - 1)


def _settings() -> Iterator[tuple[str, Damage]]:
    for value in ("LOHA", "", None, 7, ["LORA"], GONE):
        yield f"peft_type {'gone' if value is GONE else value!r}", said(peft_type=value)
    for key in ("r", "lora_alpha"):
        for value in (0, -4, "4", 2.5, None, [4], True, 10**9, GONE):
            yield f"{key} {'gone' if value is GONE else value!r}", said(**{key: value})
    yield "lora_alpha is no number", said(lora_alpha=float("nan"))
    for key in ("rank_pattern", "alpha_pattern"):
        for value in ([4], "x", {"q_proj": "x"}, {"q_proj": 0}, {"(": 4}, {"q_proj": 3}):
            yield f"{key} {value!r}", said(**{key: value})


def _switches() -> Iterator[tuple[str, Damage]]:
    for key in ("use_dora", "use_rslora", "fan_in_fan_out", "lora_bias", "use_qalora"):
        for value in (True, "yes", 7):
            yield f"{key} {value!r}", said(**{key: value})
    for value in ("all", "lora_only", 7):
        yield f"bias {value!r}", said(bias=value)
    for value in (["lm_head"], "lm_head", 7):
        yield f"modules_to_save {value!r}", said(modules_to_save=value)
    for value in (7, ["/gone"], None):
        yield f"base_model_name_or_path {value!r}", said(base_model_name_or_path=value)


def _weights() -> Iterator[tuple[str, Damage]]:
    yield "A without B", tensors(lambda s: {k: v for k, v in s.items() if k != SECOND})
    yield "B without A", tensors(lambda s: {k: v for k, v in s.items() if k != FIRST})
    yield "nothing", tensors(lambda s: {"x": np.ones(1, np.float32)})
    yield "ranks differ", tensor(FIRST, lambda w: w[:-1])
    yield "columns differ", tensor(FIRST, lambda w: w[:, :-1])
    yield "rows differ", tensor(SECOND, lambda w: w[:-1])
    yield "turned", tensor(FIRST, lambda w: w.T)
    yield "flat", tensor(FIRST, lambda w: w.reshape(-1))
    yield "a third axis", tensor(FIRST, lambda w: w[None])
    yield (
        "a rank of nothing",
        tensors(lambda s: {**s, FIRST: s[FIRST][:0], SECOND: s[SECOND][:, :0]}),
    )
    for value in (np.nan, np.inf, 3e38):
        yield f"{value} inside", tensor(FIRST, lambda w, v=value: np.where(w == w.max(), v, w))
    yield "factors overflow", tensors(lambda s: {k: v * np.float32(1e30) for k, v in s.items()})
    yield "integers", tensor(FIRST, lambda w: w.astype(np.int32))
    for old, new in (
        *(("layers.0.", "layers.9."), ("q_proj", "query"), ("lora_A", "lora_C")),
        *(("base_model.model.", ""), ("lora_A.weight", "lora_A.other.weight"), (".weight", "")),
        *(("model.model.", "model.transformer."), ("q_proj", "bias_proj")),
    ):
        yield (
            f"{old} called {new!r}",
            tensors(lambda s, old=old, new=new: {k.replace(old, new): v for k, v in s.items()}),
        )
    yield (
        "a vector of magnitudes",
        tensors(
            lambda s: {
                **s,
                FIRST.replace("lora_A.weight", "lora_magnitude_vector"): s[SECOND][:, 0],
            }
        ),
    )
    yield "a stray tensor", tensors(lambda s: {**s, "base_model.model.extra": s[FIRST]})


DAMAGES: dict[str, Damage] = dict(
    one for family in (_files, _settings, _switches, _weights) for one in family()
)
"""What is wrong -> what makes it so."""
HARMLESS: dict[str, Damage] = {
    "nothing": lambda folder: None,
    "keys of nobody": said(**{"x-of-nobody": [1], "revision": None, "inference_mode": True}),
    "half precision would be rounded": tensors(
        lambda s: {k: v.astype(np.float64) for k, v in s.items()}
    ),
}
"""What must change no number."""
