"""LoRA adapters as inputs: the weights that a model has with its adapter, read in runs."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from treadle.combine.merge.base import Floats
from treadle.combine.merge.sources import CHUNK_ELEMENTS, Source
from treadle.core.checkpoint import CheckpointReader, TensorInfo
from treadle.core.checkpoint.header import MappedFiles, read_header
from treadle.core.codec import FLOATS
from treadle.core.errors import CheckpointError, UnsupportedModelError
from treadle.native import elements

__all__ = ["Adapted", "Adapter"]

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(.+)\.lora_(embedding_)?([AB])(?:\.weight)?")
# Settings of peft that change what an adapter computes, and what they are called.
_REFUSED = {
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "lora_bias": "a bias in lora_B",
    "layer_replication": "replicated layers",
    "target_parameters": "LoRA of bare parameters",
    "trainable_token_indices": "trained single tokens",
    "alora_invocation_tokens": "activated LoRA",
    "arrow_config": "Arrow routing",
}
# Initialisations that take something off the base; peft adds it when it loads such an adapter.
_INITIALISATIONS = ("pissa", "olora", "corda", "loftq")


class _Factors(NamedTuple):
    """The change of one weight: scale * left @ right, [rows, rank] @ [rank, columns]."""

    left: TensorInfo
    right: TensorInfo
    is_transposed: bool
    """Whether both factors lie in the file as [columns, ...] and [..., rows]."""
    scale: float

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the weight that they change."""
        axes = (1, 0) if self.is_transposed else (0, 1)
        return self.left.shape[axes[0]], self.right.shape[axes[1]]


class Adapter:
    """A LoRA adapter in peft's format, opened by its header; its factors stay on disk.

    Raises:
        CheckpointError: A file is missing or damaged.
        UnsupportedModelError: It is no LoRA adapter, or one of a kind that is not read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.config = _read_config(self.folder)
        _require_plain_lora(self.folder, self.config)
        if not (self.folder / _WEIGHTS).is_file():
            raise CheckpointError(
                f"{self.folder} has no {_WEIGHTS}; save the adapter as safetensors "
                f"(save_pretrained(OUT, safe_serialization=True)) and give that folder."
            )
        self._maps = MappedFiles()
        self._changes: dict[str, _Factors] = {}
        self._replacements: dict[str, TensorInfo] = {}
        self._sort(read_header(self.folder / _WEIGHTS))

    @property
    def content_hash(self) -> str:
        """The SHA-256 of the adapter's two files."""
        with (self.folder / _WEIGHTS).open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256")
        digest.update((self.folder / _CONFIG).read_bytes())
        return digest.hexdigest()

    def require_fit(self, model: CheckpointReader) -> str | None:
        """Check that a model has all that the adapter changes; return a note if names differ.

        Raises:
            CheckpointError: A tensor is missing, of another shape, or a tied head.
        """
        for name in [*self._changes, *self._replacements]:
            if name in model.tied:
                raise CheckpointError(
                    f"The adapter {self.folder} changes '{name}', which {model.folder} ties to "
                    f"'{model.tied[name]}'; untie the model's head first "
                    f"(tie_word_embeddings: false)."
                )
            if name not in model.tensors:
                raise CheckpointError(
                    f"The adapter {self.folder} is one for another base: it changes '{name}', "
                    f"which {model.folder} does not have; give the model that it was trained on"
                    f"{self._trained_on()}."
                )
            self._require_shape(name, model.tensors[name].shape, str(model.folder))
        named = str(self.config.get("base_model_name_or_path") or "")
        known = {model.folder.name, Path(str(model.config.get("_name_or_path") or "")).name}
        if not named or Path(named).name in known:
            return None
        return (
            f"The adapter {self.folder} says that it was trained on '{named}', but it is applied "
            f"to {model.folder}; its shapes fit."
        )

    def applied(self, name: str, source: Source) -> Source:
        """Return a tensor with the adapter's change; the same source if there is none.

        Raises:
            CheckpointError: The change has another shape than the tensor.
        """
        if name in self._replacements:
            self._require_shape(name, source.shape, "the model")
            source = _Replaced(self._replacements[name], source.dtype, self._maps)
        if name in self._changes:
            self._require_shape(name, source.shape, "the model")
            source = Adapted(source, self._changes[name], self._maps)
        return source

    def _sort(self, tensors: list[TensorInfo]) -> None:
        """Sort the tensors of the file into pairs of factors and full replacements."""
        factors: dict[tuple[str, bool], dict[str, TensorInfo]] = {}
        for info in tensors:
            found = _FACTOR.fullmatch(info.name)
            if (
                not info.name.startswith(_PREFIX)
                or info.dtype not in FLOATS
                or "lora_magnitude" in (info.name)
            ):
                raise UnsupportedModelError(
                    f"{info.file} holds '{info.name}' ({info.dtype}), which is no part of a plain "
                    f"LoRA adapter; merge the adapter into its model with peft and give that model."
                )
            if found is None:
                # peft saves the embedding below the factors along with them.
                name = info.name.removeprefix(_PREFIX).replace(".base_layer.", ".")
                self._replacements[name] = info
            else:
                module = found.group(1).removeprefix(_PREFIX)
                factors.setdefault((module, bool(found.group(2))), {})[found.group(3)] = info
        for (module, is_embedding), pair in factors.items():
            self._changes[f"{module}.weight"] = self._factors(module, is_embedding, pair)

    def _factors(self, module: str, is_embedding: bool, pair: Mapping[str, TensorInfo]) -> _Factors:
        ranks = self.config.get("rank_pattern") or {}
        alphas = self.config.get("alpha_pattern") or {}
        rank = int(_matching(ranks, module, self.config["r"]))
        alpha = float(_matching(alphas, module, self.config.get("lora_alpha", 8)))
        shapes = {letter: list(info.shape) for letter, info in sorted(pair.items())}
        if list(shapes) != ["A", "B"] or len(shapes["A"]) != 2 or len(shapes["B"]) != 2:
            raise CheckpointError(
                f"Module '{module}' in {self.folder} has factors of shapes {shapes}, but two "
                f"matrices lora_A and lora_B were expected; save the adapter again."
            )
        if not rank == shapes["A"][0] == shapes["B"][1]:
            raise CheckpointError(
                f"Module '{module}' in {self.folder} has factors of shapes {shapes}, but "
                f"{_CONFIG} gives it rank {rank}; give the config that the weights were saved with."
            )
        scale = alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)
        if is_embedding or self.config.get("fan_in_fan_out"):
            return _Factors(pair["A"], pair["B"], True, scale)
        return _Factors(pair["B"], pair["A"], False, scale)

    def _require_shape(self, name: str, shape: tuple[int, ...], model: str) -> None:
        for change in (self._replacements.get(name), self._changes.get(name)):
            if change is not None and change.shape != shape:
                raise CheckpointError(
                    f"The adapter {self.folder} is one for another base: it changes '{name}' of "
                    f"shape {list(change.shape)}, but {model} has shape {list(shape)}; give the "
                    f"model that it was trained on{self._trained_on()}."
                )

    def _trained_on(self) -> str:
        named = self.config.get("base_model_name_or_path")
        return f" ('{named}')" if named else ""


class Adapted(Source):
    """A weight with its change W + s * B @ A, in float32; a read takes one run beside `target`."""

    def __init__(self, source: Source, factors: _Factors, maps: MappedFiles) -> None:
        self.shape, self.dtype = source.shape, source.dtype
        self._source, self._factors, self._maps = source, factors, maps

    def read(self, first: int, target: Floats) -> None:
        """Write the elements from `first` on into `target`."""
        self._source.read(first, target)
        left, right = self._left_and_right()
        width = self.shape[1]
        # Whole rows at once, as many as fit a run; a cut row at either end goes alone.
        step = max(1, CHUNK_ELEMENTS // width)
        position = first
        while position < first + target.size:
            row, column = divmod(position, width)
            remaining = first + target.size - position
            columns = min(width - column, remaining)
            rows = 1 if columns < width else min(step, remaining // width)
            factor = left[row : row + rows].astype(np.float32) * np.float32(self._factors.scale)
            with np.errstate(over="ignore", invalid="ignore"):  # found below, with its name
                change = factor @ right[:, column : column + columns]
            target[position - first :][: change.size] += change.reshape(-1)
            position += change.size
        if not elements.are_finite(target):
            raise CheckpointError(
                f"The adapter factors '{self._factors.left.name}' and "
                f"'{self._factors.right.name}' in '{self._factors.left.file}' make weights that "
                f"are not finite; repair or retrain the adapter, or leave it out."
            )

    def _left_and_right(self) -> tuple[Floats, Floats]:
        pair = [self._maps.view(info) for info in (self._factors.left, self._factors.right)]
        left, right = (view.T if self._factors.is_transposed else view for view in pair)
        # `left` is widened by rows in `read`; `right` is small, a rank times a row.
        return left, right.astype(np.float32, copy=False)


class _Replaced(Source):
    """A tensor that the adapter holds as a whole; it counts as stored in the model's dtype."""

    def __init__(self, info: TensorInfo, dtype: str, maps: MappedFiles) -> None:
        self.shape, self.dtype = info.shape, dtype
        self._info, self._maps = info, maps

    def read(self, first: int, target: Floats) -> None:
        """Write the elements from `first` on into `target`."""
        target[:] = self._maps.view(self._info).reshape(-1)[first : first + target.size]
        if not elements.are_finite(target):
            raise CheckpointError(
                f"Tensor '{self._info.name}' in '{self._info.file}' holds numbers that are not "
                f"finite; repair or retrain the adapter, or leave it out."
            )


def _read_config(folder: Path) -> dict[str, Any]:  # Any: JSON values
    file = folder / _CONFIG
    if not file.is_file():
        raise CheckpointError(
            f"{folder} has no {_CONFIG}, so it is no adapter; give the folder that peft saved."
        )
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is not JSON ({error}); save the adapter again.") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} holds no JSON object; save the adapter again.")
    return config


def _require_plain_lora(folder: Path, config: Mapping[str, Any]) -> None:  # Any: JSON values
    kind = config.get("peft_type")
    start = str(config.get("init_lora_weights")).lower()
    found = [what for key, what in _REFUSED.items() if config.get(key)]
    found += [kind for kind in _INITIALISATIONS if start.startswith(kind)]
    if kind != "LORA" or "r" not in config:
        found = [f"an adapter of type {kind!r}"]
    if found:
        raise UnsupportedModelError(
            f"{folder / _CONFIG} says {', '.join(map(str, found))}, but only plain LoRA can be "
            f"applied; merge the adapter into its model with peft and give that model."
        )


def _matching(patterns: Mapping[str, Any], module: str, default: Any) -> Any:  # Any: numbers
    """Return the value of the first pattern that fits the module's name or its end."""
    for pattern, value in patterns.items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            return value
    return default
