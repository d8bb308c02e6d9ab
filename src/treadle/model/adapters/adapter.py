"""LoRA adapters in peft's format: what they change, read by their header."""

import hashlib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from treadle.core.checkpoint import CheckpointReader, TensorInfo
from treadle.core.checkpoint.header import MappedFiles, read_header
from treadle.core.codec import FLOATS, Array
from treadle.core.errors import CheckpointError, UnsupportedModelError
from treadle.model import facts
from treadle.model.adapters.config import CONFIG_FILE, matching, read_config, require_plain_lora
from treadle.model.adapters.keys import adapters_of, read_key

__all__ = ["WEIGHTS_FILE", "Adapter", "Factors", "transposed_in"]

WEIGHTS_FILE = "adapter_model.safetensors"
_INNER = ".modules_to_save."
_BIASES = tuple(head.replace("weight", "bias") for head in facts.HEADS)


class Factors(NamedTuple):
    """The change of one weight: scale * left @ right, [rows, rank] @ [rank, columns]."""

    left: TensorInfo
    right: TensorInfo
    is_transposed: bool
    """Whether both factors lie in the file as [columns, ...] and [..., rows]."""
    scale: float

    def turned(self) -> "Factors":
        """Return the change of a weight [rows, columns] by the factors of its transpose."""
        return Factors(self.right, self.left, not self.is_transposed, self.scale)

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the weight that they change."""
        axes = (1, 0) if self.is_transposed else (0, 1)
        return self.left.shape[axes[0]], self.right.shape[axes[1]]


class Adapter:
    """A LoRA adapter in peft's format, opened by its header; its factors stay on disk.

    What it changes is what its file holds: `target_modules` only says how peft chose that.

    Raises:
        CheckpointError: A file is missing or damaged.
        UnsupportedModelError: It is no LoRA adapter, or one of a kind that is not read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.config = read_config(self.folder)
        require_plain_lora(self.folder, self.config)
        if not (self.folder / WEIGHTS_FILE).is_file():
            raise CheckpointError(
                f"{self.folder} has no {WEIGHTS_FILE}; save the adapter as safetensors "
                f"(save_pretrained(OUT, safe_serialization=True)) and give that folder."
            )
        self._maps = MappedFiles()
        self.changes: dict[str, Factors] = {}
        """Name of a weight -> the factors of its change."""
        self.replacements: dict[str, TensorInfo] = {}
        """Name of a tensor -> what takes its place as a whole."""
        self._embeddings: set[str] = set()
        """Of the changes those of embeddings, whose factors lie the other way round."""
        self._regrown: dict[str, tuple[int, ...]] = {}
        """Names of vocabulary tensors -> their shape, where the adapter has other tokens."""
        self._sort(read_header(self.folder / WEIGHTS_FILE))
        self._require_saved()
        if not (self.changes or self.replacements):
            raise CheckpointError(
                f"{self.folder / WEIGHTS_FILE} holds no tensors, so the adapter changes nothing; "
                f"save it again with the weights that were trained."
            )

    def _require_saved(self) -> None:
        """Check that modules which the config says were trained whole have weights."""
        for module in self.config.get("modules_to_save") or ():
            if not any(f".{module}." in f".{name}" for name in self.replacements):
                raise CheckpointError(
                    f"{self.folder / CONFIG_FILE} says that '{module}' was trained as a whole "
                    f"(modules_to_save), but {WEIGHTS_FILE} holds no weights of it; save the "
                    f"adapter again."
                )

    @property
    def content_hash(self) -> str:
        """The SHA-256 of the adapter's two files."""
        with (self.folder / WEIGHTS_FILE).open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256")
        digest.update((self.folder / CONFIG_FILE).read_bytes())
        return digest.hexdigest()

    @property
    def all_names(self) -> set[str]:
        """The names of all tensors that it changes."""
        return {*self.changes, *self.replacements}

    def require_fit(self, model: CheckpointReader) -> str | None:
        """Check that a model has all that the adapter changes; return a note if names differ.

        Raises:
            CheckpointError: A tensor is missing, or of another shape.
        """
        self.call_as({*model.tensors, *model.tied})
        self._turn(model)
        self._regrow(model)
        for name in [*self.changes, *self.replacements]:
            stored = model.tied.get(name, name)
            if stored not in model.tensors:
                raise CheckpointError(
                    f"The adapter {self.folder} changes '{name}', which {model.folder} does not "
                    f"have; give the model that it was trained on{self.trained_on}. If this is it, "
                    f"its tensors are stored in another form: load and save it with transformers "
                    f"(save_pretrained(OUT, save_original_format=False)), and give that folder."
                )
            self.require_shape(name, model.tensors[stored].shape, str(model.folder))
        named = Path(str(model.config.get("_name_or_path") or "")).name
        return self.note_on_base({model.folder.name, named}, str(model.folder))

    @property
    def num_rows(self) -> int | None:
        """How many rows the vocabulary has with the adapter; None where that is the model's."""
        return next((shape[0] for shape in self._regrown.values()), None)

    def _regrow(self, model: CheckpointReader) -> None:
        """Find the tensors whose rows are another vocabulary's than the model's.

        Raises:
            CheckpointError: Not all of them have the same number of rows.
        """
        heads = [name for name in model.tensors if name.endswith((*facts.HEADS, *_BIASES))]
        embeddings = [name for name in model.tensors if name.endswith(facts.EMBEDDINGS)]
        rows = {model.tensors[name].shape[0] for name in embeddings}
        if len(rows) != 1:
            return
        own = [*embeddings, *heads, *model.tied]
        for name in own:
            found, stored = self.replacements.get(name), model.tensors[model.tied.get(name, name)]
            if (
                found is None
                or found.shape[1:] != stored.shape[1:]
                or found.shape in ((), stored.shape)
            ):
                continue
            self._regrown[name] = found.shape
        for alias, source in model.tied.items():  # what shares a tensor grows with it
            for name, other in ((alias, source), (source, alias)):
                if name in self._regrown and other not in self.replacements:
                    self._regrown[other] = self._regrown[name]
                    self.replacements[other] = self.replacements[name]
        sizes = {name: self._regrown[name][0] for name in own if name in self._regrown}
        lacking = [name for name in own if name not in sizes]
        if sizes and (lacking or len(set(sizes.values())) > 1):
            name, size = next(iter(sizes.items()))
            other = lacking[0] if lacking else next(n for n in own if sizes[n] != size)
            raise CheckpointError(
                f"The adapter {self.folder} gives '{name}' {size} rows and '{other}' "
                f"{sizes.get(other, rows.pop())}, but both have a row for each token; save it "
                f"again with both (save_pretrained(OUT, save_embedding_layers=True))."
            )

    def call_as(self, present: Iterable[str]) -> None:
        """Call what the adapter changes as a model's tensors are called that are present.

        peft writes the names of the module that was trained: a folder may have others, with a
        wrapper's tower around them, or without the model's own prefix.
        """
        names = facts.names_among([*self.changes, *self.replacements], present)
        self._embeddings = {names.get(name, name) for name in self._embeddings}
        self.changes = {names[name]: change for name, change in self.changes.items()}
        self.replacements = {names[name]: info for name, info in self.replacements.items()}

    def _turn(self, model: CheckpointReader) -> None:
        """Turn each change as its weight lies in the model, as peft does when it loads an adapter.

        `fan_in_fan_out` holds what was true of the last module that peft changed, so it counts only
        where transformers does not know the model.
        """
        transposed = transposed_in(model.config)
        if transposed is None:
            return
        for name, change in self.changes.items():
            is_transposed = name in self._embeddings or facts.own_name(name) in transposed
            if is_transposed != change.is_transposed:
                self.changes[name] = change.turned()

    def unties(self, model: CheckpointReader) -> bool:
        """Say whether a head and an embedding that the model shares differ with the adapter.

        They do where it changes one of them alone, or both in other ways: what peft computes with
        an adapter, whatever it writes when it merges one into shared weights.
        """
        if self.config.get("ensure_weight_tying"):
            return False
        changed = {*self.changes, *self.replacements}
        for pair in model.tied.items():
            if changed.isdisjoint(pair):
                continue
            return not self._are_alike(*pair)
        return False

    def _are_alike(self, first: str, second: str) -> bool:
        """Say whether two tensors that were one are still one."""
        kept, other_kept = self.replacements.get(first), self.replacements.get(second)
        if kept is None or other_kept is None:
            if kept is not other_kept:
                return False
        elif self.read(kept).tobytes() != self.read(other_kept).tobytes():
            return False
        made, other_made = self.changes.get(first), self.changes.get(second)
        if made is None or other_made is None:
            return made is other_made
        pairs = zip(self._oriented(made), self._oriented(other_made), strict=True)
        return made.scale == other_made.scale and all(np.array_equal(*pair) for pair in pairs)

    def _oriented(self, factors: Factors) -> tuple[Array, Array]:
        """Return left [rows, rank] and right [rank, columns] of a change."""
        pair = self.read(factors.left), self.read(factors.right)
        return (pair[0].T, pair[1].T) if factors.is_transposed else pair

    def note_on_base(self, names: Iterable[str], model: str) -> str | None:
        """Return a note if the adapter says that it was trained on none of `names`."""
        named = str(self.config.get("base_model_name_or_path") or "")
        if not named or Path(named).name in names:
            return None
        return (
            f"The adapter {self.folder} says that it was trained on '{named}', but it is applied "
            f"to {model}; its shapes fit."
        )

    def read(self, info: TensorInfo) -> Array:
        """Return a tensor of the adapter as an array over its file."""
        return self._maps.view(info)

    def _sort(self, tensors: list[TensorInfo]) -> None:
        """Sort the tensors of the file into pairs of factors and full replacements."""
        factors: dict[tuple[str, bool], dict[str, TensorInfo]] = {}
        adapters = adapters_of(info.name for info in tensors)
        if len(adapters) > 1:
            raise UnsupportedModelError(
                f"{self.folder / WEIGHTS_FILE} holds the adapters {', '.join(adapters)}, but one "
                f"was expected; save each alone (save_pretrained(OUT, selected_adapters=['NAME']))."
            )
        for info in tensors:
            key = read_key(info.name, adapters)
            if key.kind == "shadowed":
                continue
            if key.kind == "other" or info.dtype not in FLOATS:
                raise UnsupportedModelError(
                    f"{info.file} holds '{info.name}' ({info.dtype}), which is no part of a plain "
                    f"LoRA adapter; merge the adapter into its model with peft and give that model."
                )
            known = self.replacements
            if key.kind == "factor":
                known = factors.setdefault((key.name, key.is_embedding), {})
            own = key.letter or key.name
            if key.kind == "whole" and own in known:
                # peft writes embeddings of other sizes twice, and reads the plain name.
                inner = [_INNER in one.name for one in (known[own], info)]
                if inner[0] != inner[1]:
                    known[own] = info if inner[0] else known[own]
                    continue
            if own in known:
                raise CheckpointError(
                    f"{info.file} holds '{known[own].name}' and '{info.name}', which mean one "
                    f"tensor; save the adapter again."
                )
            known[own] = info
        self._embeddings = {f"{module}.weight" for module, is_embedding in factors if is_embedding}
        for (module, is_embedding), pair in factors.items():
            self.changes[f"{module}.weight"] = self._factors(module, is_embedding, pair)

    def _factors(self, module: str, is_embedding: bool, pair: Mapping[str, TensorInfo]) -> Factors:
        ranks = self.config.get("rank_pattern") or {}
        alphas = self.config.get("alpha_pattern") or {}
        rank = int(matching(ranks, module, self.config["r"]))
        alpha = float(matching(alphas, module, self.config.get("lora_alpha", 8)))
        shapes = {letter: list(info.shape) for letter, info in sorted(pair.items())}
        if list(shapes) != ["A", "B"] or len(shapes["A"]) != 2 or len(shapes["B"]) != 2:
            raise CheckpointError(
                f"Module '{module}' in {self.folder} has factors of shapes {shapes}, but two "
                f"matrices lora_A and lora_B were expected; save the adapter again."
            )
        if not rank == shapes["A"][0] == shapes["B"][1]:
            raise CheckpointError(
                f"Module '{module}' in {self.folder} has factors of shapes {shapes}, but "
                f"{CONFIG_FILE} gives it rank {rank}; give the config that the weights were saved "
                f"with."
            )
        scale = alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)
        if is_embedding or self.config.get("fan_in_fan_out"):
            return Factors(pair["A"], pair["B"], True, scale)
        return Factors(pair["B"], pair["A"], False, scale)

    def require_shape(self, name: str, shape: tuple[int, ...], model: str) -> None:
        """Check that what the adapter changes has a tensor's shape.

        Raises:
            CheckpointError: It has another one.
        """
        shape = self._regrown.get(name, shape)
        for change in (self.replacements.get(name), self.changes.get(name)):
            if change is not None and change.shape != shape:
                raise CheckpointError(
                    f"The adapter {self.folder} is one for another base: it changes '{name}' of "
                    f"shape {list(change.shape)}, but {model} has shape {list(shape)}; give the "
                    f"model that it was trained on{self.trained_on}."
                )

    @property
    def trained_on(self) -> str:
        """The base that the adapter names, in brackets, or nothing."""
        named = self.config.get("base_model_name_or_path")
        return f" ('{named}')" if named else ""


def transposed_in(config: Mapping[str, Any]) -> frozenset[str] | None:  # Any: JSON values
    """Return the own names of the weights stored as [in, out]; None for an unknown model."""
    base = facts.whole_config(dict(config))
    known = facts.ARCHITECTURES.get(str(base.get("model_type")))
    if known and not any(linear.transposed for linear in known.linears):
        return frozenset()
    from treadle.model.anatomy import Anatomy, Unbuilt

    try:
        return frozenset(map(facts.own_name, Anatomy(base).transposed))
    except Unbuilt:
        return None
