"""The files of an extracted adapter, and what its account says."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from treadle.combine.merge.inputs.models import Model
from treadle.combine.merge.inputs.towers import parse_name
from treadle.core.checkpoint import PlannedTensor
from treadle.core.checkpoint.header import build_header
from treadle.core.checkpoint.publish import carry_files, write_text
from treadle.core.result import Figure, Measurement, Series
from treadle.core.run import Recording
from treadle.model.adapters import CONFIG_FILE, PREFIX, WEIGHTS_FILE
from treadle.model.adapters.naming import Shelf

__all__ = ["Part", "TunedPair", "account_for_parts", "write_adapter"]


class TunedPair(NamedTuple):
    """A model and the base that it was tuned from."""

    base: Model
    model: Model

    @property
    def is_tied(self) -> bool:
        """Whether head and embedding are one tensor in both."""
        return bool(self.base.tied and self.model.tied)


class Part(NamedTuple):
    """What the adapter has of one tensor."""

    name: str
    """As the base's folder calls it."""
    shelf: Shelf
    file: Path
    """Its bytes, one tensor behind the other."""
    tensors: list[PlannedTensor]
    change: float
    """Squared norm of what the model learned there."""
    missing: float
    """Squared norm of what the adapter lacks of it."""

    @property
    def rank(self) -> int:
        """Of the product; 0 where the tensor is kept whole."""
        return min(self.tensors[0].shape) if ".lora_" in self.tensors[0].name else 0

    def is_idle(self, parts: Sequence["Part"]) -> bool:
        """Say whether it is one of many parts of a tensor of which none has changed."""
        if self.shelf.is_known:
            return False
        stem = self.shelf.module.partition(".experts.")[0]
        return not any(one.change for one in parts if one.shelf.module.startswith(f"{stem}."))

    @property
    def modules(self) -> list[str]:
        """The modules that have it: an embedding may be the head, too."""
        names = (tensor.name.removeprefix(PREFIX) for tensor in self.tensors)
        end = f".{self.shelf.parameter}"
        return list(
            dict.fromkeys(re.split(r"\.lora_", name)[0].removesuffix(end) for name in names)
        )


def write_adapter(folder: Path, parts: Sequence[Part], pair: TunedPair, title: str) -> None:
    """Write peft's two files, the tokenizer where it is another one, and a card."""
    products = {module for part in parts if part.rank for module in part.modules}
    files = {
        (name := _key(tensor.name, part.shelf, products)): (tensor._replace(name=name), part, place)
        for part in parts
        for place, tensor in enumerate(part.tensors)
    }
    planned = [files[name][0] for name in sorted(files)]
    with (folder / WEIGHTS_FILE).open("wb") as stream:
        header, infos = build_header(folder / WEIGHTS_FILE, planned)
        stream.write(header)
        for info in infos:
            _, part, place = files[info.name]
            with part.file.open("rb") as source:
                source.seek(sum(one.num_bytes for one in part.tensors[:place]))
                stream.write(source.read(info.num_bytes))
        stream.flush()
        os.fsync(stream.fileno())
    write_text(folder / CONFIG_FILE, _config(parts, pair))
    if any(
        part.change == 0 and not part.rank for part in parts
    ):  # other rows than the base's: other tokens
        carry_files(pair.model.reader.folder, folder)
    write_text(
        folder / "README.md",
        f"---\nbase_model: {pair.base.ref}\nlibrary_name: peft\ntags: [lora, treadle]\n---\n"
        f"# {title}\n\n"
        f"What '{pair.model.ref}' learned beside '{pair.base.ref}', as a LoRA adapter of rank "
        f"{max((part.rank for part in parts), default=0)}, extracted by `treadle merge "
        f"extract-lora`. result.json says what the rank leaves out.\n",
    )


def _key(name: str, shelf: Shelf, products: set[str]) -> str:
    """Return a tensor's key: a bias beside two factors is that of the layer below them."""
    is_below = shelf.parameter == "bias" and shelf.module in products
    return name.removesuffix("bias") + "base_layer.bias" if is_below else name


def _config(parts: Sequence[Part], pair: TunedPair) -> dict[str, Any]:  # Any: JSON values
    """Return adapter_config.json: alpha is the rank everywhere, so that the scale is 1."""
    products = {module: part.rank for part in parts if part.rank for module in part.modules}
    whole = [part.shelf for part in parts if not part.rank]
    rank = max(products.values(), default=1)
    others = {name: own for name, own in products.items() if own != rank}
    kept = {m for p in parts if not p.rank and p.shelf.parameter == "weight" for m in p.modules}
    kept -= products.keys()
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(pair.base.ref),
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": sorted(products),
        "modules_to_save": sorted(kept) or None,
        "bias": "all" if any(shelf.parameter == "bias" for shelf in whole) else "none",
        "fan_in_fan_out": any(part.shelf.is_transposed for part in parts),
        "lora_dropout": 0.0,
        "use_rslora": False,
        "use_dora": False,
        "inference_mode": True,
    }


def account_for_parts(run: Recording, parts: Sequence[Part], pair: TunedPair) -> None:
    """Note what the adapter has, and what it lacks."""
    change = sum(part.change for part in parts)
    missing = sum(part.missing for part in parts)
    num_bytes = sum(tensor.num_bytes for part in parts for tensor in part.tensors)
    model_bytes = pair.model.reader.num_bytes
    num_numbers = sum(tensor.num_elements for part in parts for tensor in part.tensors)
    run.measurements += [
        Measurement(
            name="missing change",
            value=float(np.sqrt(missing / change)) if change else 0.0,
            unit="of the norm of all change",
            better="lower",
            note="(in the weights; 1 is the base itself)",
        ),
        Measurement(name="products", value=sum(bool(part.rank) for part in parts), unit="matrices"),
        Measurement(name="kept whole", value=sum(not part.rank for part in parts), unit="tensors"),
        Measurement(name="parameters", value=num_numbers, unit="numbers in the adapter"),
        Measurement(
            name="size", value=num_bytes / model_bytes, unit="of the model's bytes", better="lower"
        ),
    ]
    run.bytes |= {"input": pair.base.reader.num_bytes + model_bytes, "output": num_bytes}
    run.figures += _figures(parts)
    run.notes += _notes(parts, pair)


def _notes(parts: Sequence[Part], pair: TunedPair) -> Iterator[str]:
    """Yield what whoever loads the adapter elsewhere should know."""
    if any(not part.shelf.is_known for part in parts):
        yield (
            "Experts go by the names of the folder, one by one, and transformers' module has them "
            "in one tensor: treadle merges BASE+OUT; peft 0.21 takes those of mixtral and "
            "qwen3_moe and leaves those of qwen2_moe out without a word."
        )
    is_product = any(part.rank and len(part.modules) > 1 for part in parts)
    if pair.is_tied and is_product:
        yield (
            "Head and embedding are one tensor, and each has the product beside it: peft's "
            "merge_and_unload would add both into it; merge with treadle merge passthrough "
            "BASE+OUT, or extract with the embedding kept whole (--whole)."
        )


def _figures(parts: Sequence[Part]) -> Iterator[Figure]:
    """Yield what is missing of each matrix, by layer."""
    rows: dict[str, dict[str, float]] = {}
    for part in parts:
        found = parse_name(part.name)
        if found.layer is not None and part.rank and part.change:
            kind = found.after.strip(".").removesuffix(".weight")
            rows.setdefault(f"{found.before}{found.layer}", {})[kind] = float(
                np.sqrt(part.missing / part.change)
            )
    kinds = list(dict.fromkeys(kind for row in rows.values() for kind in row))
    even = {name: row for name, row in rows.items() if row.keys() == set(kinds)}
    if even:
        yield Figure(
            kind="heatmap",
            title="What the rank leaves out of each change",
            x_label="matrix (0: nothing, 1: all of it)",
            y_label="layer",
            series=[
                Series(name=name, x=list(kinds), y=[row[kind] for kind in kinds])
                for name, row in even.items()
            ],
        )
