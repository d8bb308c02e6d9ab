"""The models that go into a merge: opened once, each tensor found under its name or its layer."""

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from treadle.combine.merge.inputs.adapters import AdapterSource
from treadle.combine.merge.inputs.sources import (
    PiecedSource,
    TensorSource,
    WeightFiles,
    stored,
)
from treadle.combine.merge.inputs.towers import (
    TEXT,
    Name,
    Tower,
    find_towers,
    has_encoder_of,
    parse_name,
    part_of,
)
from treadle.combine.merge.recipe.grammar import ModelRef
from treadle.core.checkpoint import (
    CheckpointReader,
    TensorInfo,
    content_hash,
    require_understood,
)
from treadle.core.checkpoint.described import NONUNIFORM
from treadle.core.errors import CheckpointError, SettingsError, UnsupportedModelError
from treadle.model.adapters.adapter import transposed_in
from treadle.model.facts import base_config, num_layers, own_name, whole_config, with_text

if TYPE_CHECKING:
    from treadle.combine.merge.inputs.naming import Assembly

__all__ = ["Model", "Models"]

_BUFFERS = re.compile(r"rotary_emb\.inv_freq$|\.(attn|attention)\.(masked_)?bias$")
"""Constants that old versions of transformers saved: angles and causal masks."""


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
        self._own: dict[str, str] = {}
        """Name of a tensor in the merge -> its name on disk, where that is another one."""
        self._pieced: dict[str, Assembly] = {}
        self._consumed: set[str] = set()
        """Names on disk of what `_pieced` is made of."""
        self.notes: list[str] = []
        self.unread: frozenset[str] = frozenset()
        """Names on disk that the config has no place for, as far as transformers can say."""
        self.tied = self.reader.tied
        """Head -> the embedding that it shares, with the adapter."""
        if self._adapter is not None:
            self._fit(self._adapter)

    def call_as(self, other: "Model") -> None:
        """Call the tensors as another model of the merge does; before any is looked up.

        Raises:
            UnsupportedModelError: The adapter changes experts that are stored otherwise there.
        """
        from treadle.combine.merge.inputs.naming import called_as, pieced_as

        self._pieced = pieced_as(self.reader, other.reader)
        theirs = called_as(
            [*self.reader.tensors, *self.tied], [*other.reader.tensors, *other.reader.tied]
        )
        self._own = {called: own for own, called in theirs.items() if called != own}
        self.tied = {theirs[head]: theirs[embedding] for head, embedding in self.tied.items()}
        self._consumed = {part.tensor for made in self._pieced.values() for part in made.parts}
        if self._adapter is not None and not self._consumed.isdisjoint(self._adapter.all_names):
            raise UnsupportedModelError(
                f"The adapter of '{self.ref}' changes experts, which '{other.ref}' stores in "
                f"another form; merge the adapter first (treadle merge passthrough MODEL+ADAPTER), "
                f"and give the result."
            )

    def own_name(self, name: str) -> str:
        """Return what a tensor of the merge is called on disk."""
        return self._own.get(name, name)

    @cached_property
    def config(self) -> dict[str, Any]:  # Any: JSON values
        """The config of the architecture, also of a folder whose blocks differ in width."""
        config = whole_config(self.reader.config)
        return config if self.num_rows is None else with_text(config, {"vocab_size": self.num_rows})

    @property
    def is_nonuniform(self) -> bool:
        """Whether blocks differ in width."""
        return self.reader.config.get("model_type") == NONUNIFORM

    @property
    def num_rows(self) -> int | None:
        """Rows of the embedding, where the adapter has others than the model's file."""
        return None if self._adapter is None else self._adapter.num_rows

    @property
    def token_folder(self) -> Path | None:
        """The folder of the tokenizer, where the adapter brings one for a vocabulary of its own."""
        if self._adapter is None or self.num_rows is None:
            return None
        folder = self._adapter.folder
        return folder if (folder / "tokenizer.json").is_file() else None

    @cached_property
    def num_layers(self) -> int:
        """How many decoder blocks there are, for models that can run."""
        return num_layers(base_config(self.reader.config))

    @cached_property
    def towers(self) -> list[Tower]:
        """The stacks of layers."""
        return find_towers(self._stored_names, self.config)

    @cached_property
    def parts(self) -> list[str]:
        """The parts of the model, as a recipe's `modules` name them."""
        return list(dict.fromkeys(map(self.part_of, self.names)))

    def part_of(self, name: str) -> str:
        """Return the part that a tensor belongs to."""
        return part_of(name, self._has_encoder)

    @cached_property
    def _has_encoder(self) -> bool:
        return has_encoder_of(self._stored_names)

    @cached_property
    def _stored_names(self) -> list[str]:
        called = {own: name for name, own in self._own.items()}
        whole = [name for name in self.reader.tensors if name not in self._consumed]
        return [*(called.get(name, name) for name in whole), *self._pieced]

    def require_tower(self, part: str | None) -> Tower:
        """Return the tower that layer ranges speak of.

        Raises:
            SettingsError: There is none, or more than one.
        """
        found = [tower for tower in self.towers if tower.part == (part or TEXT)]
        if len(found) == 1:
            return found[0]
        choice = ", ".join(dict.fromkeys(tower.part for tower in self.towers))
        raise SettingsError(
            f"'{self.ref}' has {len(found)} stacks of layers in its module '{part or TEXT}', so a "
            f"layer_range says nothing about it; name the module under 'modules' "
            f"({choice or 'it has none'}), or merge whole models."
        )

    @cached_property
    def content_hash(self) -> str:
        """The hash of the model's numbers, and of its adapter's."""
        own = content_hash(self.reader)
        return own if self._adapter is None else f"{own}+{self._adapter.content_hash}"

    @cached_property
    def _by_tower(self) -> dict[str, dict[int, list[Name]]]:
        """The tensors of each layer, by the first prefix of their tower."""
        owners = {prefix: t.prefixes[0] for t in self.towers for prefix in t.prefixes}
        found: dict[str, dict[int, list[Name]]] = {}
        for name in map(parse_name, self.names):
            if name.layer is not None and name.before in owners:
                layers = found.setdefault(owners[name.before], {})
                layers.setdefault(name.layer, []).append(name)
        return found

    def names_in(self, tower: Tower, layer: int) -> list[Name]:
        """Return the tensors of one layer."""
        return self._by_tower.get(tower.prefixes[0], {}).get(layer, [])

    @cached_property
    def names_outside(self) -> list[Name]:
        """The tensors that belong to no layer; their names are whole."""
        inside = {prefix for tower in self.towers for prefix in tower.prefixes}
        return [Name(n, None, "") for n in self.names if parse_name(n).before not in inside]

    @cached_property
    def names(self) -> list[str]:
        """The tensors that the model computes with, in the order on disk.

        Tied heads are left out, and buffers that every loader computes again.
        """
        called = {own: name for name, own in self._own.items()}
        tied = [called.get(head, head) for head in self.reader.tied]
        known = dict.fromkeys([*self._stored_names, *tied])
        return [n for n in known if n not in self.tied and not _BUFFERS.search(n)]

    def info(self, name: str) -> TensorInfo | None:
        """Return where a tensor lies, or None if it lies nowhere as one."""
        own = self.own_name(name)
        return self.reader.tensors.get(self.reader.tied.get(own, own))

    def has(self, name: str) -> bool:
        """Say whether the model has a tensor of the name."""
        return name in self._pieced or self.info(name) is not None

    def is_unread(self, name: str) -> bool:
        """Say whether the model has a tensor that its own config has no place for."""
        return self.has(name) and self.own_name(name) in self.unread

    def source(self, name: str) -> TensorSource | None:
        """Return a tensor, with the adapter's change, or None if the model has none of the name."""
        if name in self._pieced:
            return self._joined(self._pieced[name])
        own = self.own_name(name)
        found = stored(self.reader, own, self._files)
        if found is None or self._adapter is None:
            return found
        return self._adapter.applied(self.own_name(self.tied.get(name, name)), found)

    def branch_ends(self, layer: int) -> list[str]:
        """Return the tensors of a layer that add to the residual stream: of attention and MLP.

        Raises:
            UnsupportedModelError: The architecture has no facts.
        """
        from treadle.model import facts
        from treadle.model.belonging import shapes_of

        config = facts.base_config(self.reader.config)
        matrices = facts.linears(config, layer, shapes_of(self.reader))
        stored = dict.fromkeys(m.tensor for m in matrices if m.role in ("o", "down"))
        ends = [*stored, *(name.removesuffix("weight") + "bias" for name in stored)]
        return [name for name in self.names if self._ends(name, set(ends))]

    @cached_property
    def transposed(self) -> frozenset[str] | None:
        """The own names of weights stored as [in, out]; None where the model is not known."""
        return transposed_in(self.reader.config)

    def lies_transposed(self, name: str) -> bool:
        """Say whether a tensor of the merge is stored as [in, out]."""
        return own_name(self.own_name(name)) in (self.transposed or ())

    def _ends(self, name: str, ends: set[str]) -> bool:
        """Say whether a tensor of the merge is one of those on disk."""
        if name in self._pieced:
            return all(part.tensor in ends for part in self._pieced[name].parts)
        return self.own_name(name) in ends

    def _joined(self, made: "Assembly") -> TensorSource:
        parts = []
        for piece in made.parts:
            found = stored(self.reader, piece.tensor, self._files)
            assert found is not None, "pieces are of stored tensors"
            parts.append((found, piece.first, piece.num_elements))
        return PiecedSource(made.shape, parts)

    def _fit(self, adapter: AdapterSource) -> None:
        """Check that the adapter is one for this model, and untie what it changes alone."""
        if note := adapter.require_fit(self.reader):
            self.notes.append(note)
        if adapter.num_rows is not None:
            whose = "the adapter's" if self.token_folder else "the model's, as it brings none"
            self.notes.append(
                f"The adapter of '{self.ref}' has a vocabulary of {adapter.num_rows} rows of its "
                f"own; the tokenizer is {whose}."
            )
        if adapter.unties(self.reader):
            (head, embedding), *_ = self.reader.tied.items()
            self.tied = {}
            self.notes.append(
                f"'{self.ref}' has one tensor for '{head}' and '{embedding}', which its adapter "
                f"does not change alike: the output has both."
            )

    def _require_plain(self) -> None:
        config = self.reader.config
        if config.get("quantization_config"):
            raise UnsupportedModelError(
                f"'{self.ref}' is quantised, and only float weights can be merged; give the model "
                f"that it was made from."
            )
        classes = whole_config(config).get("architectures")
        is_list = isinstance(classes, list) and all(isinstance(one, str) for one in classes)
        if classes is not None and not is_list:
            raise CheckpointError(
                f"config.json of '{self.ref}' says architectures: {classes!r}, but a list of class "
                f"names was expected; correct it, or download it again."
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

    def only(self, chosen: Sequence[Model]) -> "Models":
        """Return some of the models as those of a merge of their own; this one closes the files."""
        found = Models()
        found.files = self.files
        found._models = {model.ref: model for model in chosen}
        return found

    def forget(self, ref: ModelRef) -> None:
        """Do without a model."""
        self._models.pop(ref, None)

    def close(self) -> None:
        """Close every file."""
        self.files.close()
        for model in self._models.values():
            model.reader.close()
