"""The models that go into a merge: opened once, each tensor found under its name or its layer."""

import re
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from treadle.combine.merge.inputs.adapters import AdapterSource
from treadle.combine.merge.inputs.sources import TensorSource, WeightFiles, stored
from treadle.combine.merge.recipe.grammar import ModelRef
from treadle.core.checkpoint import CheckpointReader, content_hash, require_understood
from treadle.core.errors import CheckpointError, SettingsError, UnsupportedModelError

__all__ = ["HEADS", "Model", "Models", "Name", "branch_ends", "parse_name"]

_LAYER = re.compile(r"(.*?\.)(\d+)(\..*)")
HEADS = ("lm_head.weight", "embed_out.weight")
_BUFFERS = re.compile(r"rotary_emb\.inv_freq$|\.(attn|attention)\.(masked_)?bias$")
"""Constants that old versions of transformers saved: angles and causal masks."""
_FIRST = ("embed", "wte", "wpe")
_NUM_LAYERS = ("num_hidden_layers", "n_layer", "num_layers")


class Name(NamedTuple):
    """A tensor's name, apart from the number of its layer."""

    before: str
    layer: int | None
    after: str

    def in_layer(self, layer: int) -> str:
        """Return the name of the same tensor in another layer."""
        return f"{self.before}{layer}{self.after}"

    @property
    def is_before_layers(self) -> bool:
        """Whether a tensor outside the layers comes before them."""
        is_head = self.before.endswith(HEADS)
        return not is_head and any(word in self.before for word in _FIRST)


def parse_name(name: str) -> Name:
    """Split a tensor's name at its first number, which counts the layers in every architecture."""
    found = _LAYER.fullmatch(name)
    if found is None:
        return Name(name, None, "")
    return Name(found.group(1), int(found.group(2)), found.group(3))


def branch_ends(reader: CheckpointReader, layer: int) -> list[str]:
    """Return the tensors of a layer that add to the residual stream: of attention and MLP.

    Raises:
        UnsupportedModelError: The architecture has no facts.
    """
    from treadle.model import facts
    from treadle.model.belonging import shapes_of

    matrices = facts.linears(reader.config, layer, shapes_of(reader))
    names = list(dict.fromkeys(m.tensor for m in matrices if m.role in ("o", "down")))
    biases = [name.removesuffix("weight") + "bias" for name in names]
    return names + [bias for bias in biases if bias in reader.tensors]


def _adapter_folder(adapter: str) -> Path:
    from treadle.model.load import resolve

    try:
        return resolve(adapter)
    except CheckpointError as error:
        raise CheckpointError(
            f"No adapter at '{adapter}', which stands behind a '+'; give a folder with "
            f"adapter_config.json beside adapter_model.safetensors, or a hub id where the network "
            f"allows."
        ) from error


class Model:
    """One model of a merge, with its adapter."""

    def __init__(self, ref: ModelRef, files: WeightFiles) -> None:
        from treadle.model.load import resolve

        self.ref, self._files = ref, files
        if ref.revision or ref.adapter_revision:
            raise SettingsError(
                f"'{ref}' names a revision, which no local folder has; download that revision and "
                f"give its folder."
            )
        self.reader = CheckpointReader(resolve(ref.path))
        require_understood(self.reader.folder)
        self._adapter = None if ref.adapter is None else AdapterSource(_adapter_folder(ref.adapter))
        self._require_plain()
        self.note = None if self._adapter is None else self._adapter.require_fit(self.reader)

    @property
    def num_layers(self) -> int:
        """How many decoder layers the model has."""
        for key in _NUM_LAYERS:
            if isinstance(found := self.reader.config.get(key), int):
                return found
        layers = [parse_name(name).layer for name in self.reader.tensors]
        return 1 + max((layer for layer in layers if layer is not None), default=-1)

    @cached_property
    def content_hash(self) -> str:
        """The hash of the model's numbers, and of its adapter's."""
        own = content_hash(self.reader)
        return own if self._adapter is None else f"{own}+{self._adapter.content_hash}"

    @cached_property
    def names_by_layer(self) -> dict[int | None, list[Name]]:
        """The tensors of each layer; those outside the layers stand under None."""
        found: dict[int | None, list[Name]] = {}
        for name in map(parse_name, self.names):
            found.setdefault(name.layer, []).append(name)
        return found

    @property
    def names(self) -> list[str]:
        """The tensors that the model computes with, in the order on disk.

        Tied heads are left out, and buffers that every loader computes again.
        """
        known = self.reader.tensors
        return [n for n in known if n not in self.reader.tied and not _BUFFERS.search(n)]

    def source(self, name: str) -> TensorSource | None:
        """Return a tensor, with the adapter's change, or None if the model has none of the name."""
        found = stored(self.reader, name, self._files)
        if found is None or self._adapter is None:
            return found
        return self._adapter.applied(self.reader.tied.get(name, name), found)

    def _require_plain(self) -> None:
        config = self.reader.config
        if config.get("quantization_config"):
            raise UnsupportedModelError(
                f"'{self.ref}' is quantised, and only float weights can be merged; give the model "
                f"that it was made from."
            )


class Models:
    """All models of a merge, each opened once, however often it is named."""

    def __init__(self) -> None:
        self.files = WeightFiles()
        self._models: dict[ModelRef, Model] = {}

    def __getitem__(self, ref: ModelRef) -> Model:
        if ref not in self._models:
            self._models[ref] = Model(ref, self.files)
        return self._models[ref]

    def all(self) -> list[Model]:
        """Return the models that were opened, in the order in which they were named."""
        return list(self._models.values())

    def close(self) -> None:
        """Close every file."""
        self.files.close()
        for model in self._models.values():
            model.reader.close()
