"""The models that go into a merge: opened once, each tensor found under its name or its layer."""

import re
from functools import cached_property
from typing import NamedTuple

from treadle.combine.merge.adapters import Adapter
from treadle.combine.merge.grammar import ModelRef
from treadle.combine.merge.sources import Source, WeightFiles, stored
from treadle.core.checkpoint import CheckpointReader, content_hash
from treadle.core.errors import CheckpointError, SettingsError, UnsupportedModelError

__all__ = ["HEADS", "Model", "Models", "Name", "branch_ends", "parse_name"]

_LAYER = re.compile(r"(.*?\.)(\d+)(\..*)")
HEADS = ("lm_head.weight", "embed_out.weight")
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
    from treadle.model.load import shapes_of

    matrices = facts.linears(reader.config, layer, shapes_of(reader))
    names = list(dict.fromkeys(m.tensor for m in matrices if m.role in ("o", "down")))
    biases = [name.removesuffix("weight") + "bias" for name in names]
    return names + [bias for bias in biases if bias in reader.tensors]


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
        self._adapter = None if ref.adapter is None else Adapter(resolve(ref.adapter))
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

    @property
    def names(self) -> list[str]:
        """The tensors that the model computes with, in the order on disk, tied heads left out."""
        return [name for name in self.reader.tensors if name not in self.reader.tied]

    def source(self, name: str) -> Source | None:
        """Return a tensor, with the adapter's change, or None if the model has none of the name."""
        found = stored(self.reader, name, self._files)
        if found is None or self._adapter is None:
            return found
        return self._adapter.applied(self.reader.tied.get(name, name), found)

    def require(self, name: str, like: tuple[int, ...] | None = None) -> Source:
        """Return a tensor.

        Raises:
            CheckpointError: There is none of the name, or its shape is not `like`.
        """
        found = self.source(name)
        if found is None:
            raise CheckpointError(
                f"'{self.ref}' has no tensor '{name}', which another model of the merge has; merge "
                f"models of one architecture (treadle merge inspect shows where they differ)."
            )
        if like is not None and found.shape != like:
            raise CheckpointError(
                f"Tensor '{name}' has shape {list(found.shape)} in '{self.ref}', but {list(like)} "
                f"in another model of the merge; merge models of one size."
            )
        return found

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
