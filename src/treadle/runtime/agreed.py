"""Which models the native step was seen to compute rightly: comparing takes long for large ones."""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from treadle.core.cache import note, noted
from treadle.core.checkpoint.seen import seen_hash
from treadle.model.gguf.file import part_paths
from treadle.native.loader import library

__all__ = [
    "description_of",
    "is_known",
    "price_of",
    "remember",
    "remember_description",
    "remember_price",
    "sign",
    "sign_states",
]

_MOST = 200
_PASSED, _PRICES, _DESCRIBED = "agreements", "prices", "described"
_DESCRIPTION = 2
"""Counts up when `native_step.described` notes something else."""


def sign(path: Path, form: str) -> str:
    """Return a name for what was compared: the files' contents, the form, the kernel."""
    return _signature([one for part in part_paths(path) for one in seen_hash(part)], form)


def sign_states(path: Path, form: str) -> str:
    """Return such a name by the files' sizes and dates, for models that take long to be read."""
    files = sorted(path.iterdir()) if path.is_dir() else part_paths(path)
    stats = [(str(file.absolute()), file.stat()) for file in files]
    return _signature([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats], form)


def _signature(content: Any, form: str) -> str:  # Any: what JSON holds
    kernel = library("step")
    parts = [content, form, None if kernel is None else kernel._name]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def is_known(signature: str) -> bool:
    """Say whether a comparison of that name was passed before."""
    return noted(_PASSED, signature) is True


def remember(signature: str) -> None:
    """Note a comparison that was passed; the oldest ones are forgotten."""
    note(_PASSED, signature, True, _MOST)


def price_of(signature: str) -> list[float] | None:
    """Return what was noted as the price of what was compared, if it was."""
    found: list[float] | None = noted(_PRICES, signature)
    return found


def remember_price(signature: str, price: list[float]) -> None:
    """Note what the forms of weights cost a model; the oldest ones are forgotten."""
    note(_PRICES, signature, price, _MOST)


def description_of(signature: str) -> Any:  # Any: a JSON value
    """Return what was noted of a model beside its weights, if it was by this transformers."""
    return noted(_DESCRIBED, _by_transformers(signature))


def remember_description(signature: str, description: dict[str, Any]) -> None:
    """Note what transformers says of a model beside its weights."""
    note(_DESCRIBED, _by_transformers(signature), description, _MOST)


def _by_transformers(signature: str) -> str:
    return f"{signature} transformers {version('transformers')} {_DESCRIPTION}"
