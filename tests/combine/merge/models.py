"""Tiny models to merge: a base, and variants of it; not a test itself."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from treadle.combine.merge import METHODS, merge
from treadle.core.checkpoint import (
    CheckpointReader,
    CheckpointWriter,
    Manifest,
    PlannedTensor,
    Provenance,
)
from treadle.core.result import Result
from treadle.core.seed import numpy_stream


def needed(method: str) -> dict[str, float]:
    """Return settings without a default: three tenths of their range, a little where it is open.

    What learns does so for a few steps only.
    """
    found = {"steps": 4} if method == "adamerging" else {}
    for name, field in METHODS[method].fields().items():
        if field.is_required():
            bounds = {type(one).__name__: one for one in field.metadata}
            low = float(getattr(bounds.get("Ge"), "ge", 0.0))
            high = getattr(bounds.get("Le"), "le", None)
            found[name] = low + 0.01 if high is None else low + 0.3 * (float(high) - low)
    return found


def num_models(method: str) -> int:
    """How many of three models (without the base) a method is given."""
    most = METHODS[method].num_models[1]
    return 3 if most is None else most


def needs_base(method: str) -> bool:
    return METHODS[method].base in ("required", "first")


def variant(base: Path, out: Path, seed: int, scale: float = 0.1, dtype: str = "F32") -> Path:
    """Write `base` plus noise of `scale` times each tensor's deviation; seed 0 adds none."""
    with CheckpointReader(base) as reader:
        planned = [
            PlannedTensor(name, dtype, info.shape)
            for name, info in reader.tensors.items()
            if name not in reader.tied
        ]
        key = f"variant {seed} {scale} {dtype}"
        config = {**reader.config, "dtype": {"F32": "float32", "BF16": "bfloat16"}[dtype]}
        with CheckpointWriter(
            out, planned, parent=reader, config=config, fingerprint=key
        ) as writer:
            for tensor in planned:
                values = reader.array(tensor.name).astype(np.float32)
                if seed:
                    noise = numpy_stream(seed, tensor.name).standard_normal(
                        values.shape, dtype=np.float32
                    )
                    values = values + scale * max(float(values.std()), 0.01) * noise
                writer.write(tensor.name, values)
            writer.finish(Manifest(provenance=Provenance(verb="test")), "")
    return out


def arrays_of(folder: Path) -> dict[str, np.ndarray]:
    """Every tensor by name, as float32 copies."""
    with CheckpointReader(folder) as reader:
        return {
            name: reader.array(name).astype(np.float32)
            for name in reader.tensors
            if name not in reader.tied
        }


def bytes_of(folder: Path) -> dict[str, bytes]:
    with CheckpointReader(folder) as reader:
        return {name: reader.array(name).tobytes() for name in reader.tensors}


def run(models: list[Path], out: Path, method: str, **settings: Any) -> Result:
    """Merge by a method with the settings of it and of the verb mixed."""
    fields = METHODS[method].fields()
    own = {**needed(method), **{k: v for k, v in settings.items() if k in fields}}
    rest = {k: v for k, v in settings.items() if k not in fields}
    if METHODS[method].needs:
        rest = {"text": [__file__], "num_windows": 3, "window_tokens": 64, **rest}
    return merge(models, out, METHODS.resolve({"method": method, **own}), **rest)


def with_config(folder: Path, **changes: Any) -> None:
    """Change a folder's config.json in place."""
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
