"""A model's tensors as the native step reads them: packed, and laid into the structs of C."""

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from treadle.core.checkpoint import CheckpointReader
from treadle.core.errors import CheckpointError
from treadle.core.progress import steps
from treadle.model import facts
from treadle.native.pointers import structs
from treadle.runtime.executor import Floats, ModelShape
from treadle.runtime.linear.held import HeldWeights
from treadle.runtime.linear.packed import Matrix, Packed, PackedLayout
from treadle.runtime.native_step.adapters import AdapterPlaces
from treadle.runtime.native_step.described import ACTIVATIONS, Described
from treadle.runtime.native_step.experts import TensorPlaces
from treadle.runtime.native_step.mixtures import MixtureLoader
from treadle.runtime.native_step.names import NAMES
from treadle.runtime.native_step.parts import MatrixPart, parts_of, shown
from treadle.runtime.native_step.structs import ROLES, Cache, Heads, Layer, Model

__all__ = ["LoadedModel", "ModelLoader"]


class LoadedModel(NamedTuple):
    """A model in memory."""

    struct: Model
    layers: "ctypes.Array[Layer]"
    caches: "ctypes.Array[Cache]"
    shape: ModelShape
    places: TensorPlaces
    adapted: AdapterPlaces


class ModelLoader:
    """Loads one model.

    Args:
        reader: Of its files.
        config: Of its text model.
        described: The model but for its weights.
        weights: Packs and counts them.
        layout: How the machine's kernel wants them.
    """

    def __init__(
        self,
        reader: CheckpointReader,
        config: dict[str, Any],  # Any: JSON values of config.json
        described: Described,
        weights: HeldWeights,
        layout: PackedLayout,
    ) -> None:
        self._reader, self._config, self._described = reader, config, described
        self._weights = weights
        self._shapes = {name: info.shape for name, info in reader.tensors.items()}
        self._names = NAMES[config["model_type"]]
        self._num_layers = facts.num_layers(config)
        self._places = TensorPlaces(self._num_layers, ROLES)
        self._adapted = AdapterPlaces(ROLES)
        choice = described.top_k, described.is_normed
        self._mixtures = MixtureLoader(reader, config, weights, layout, choice, self._adapted)
        # blocks.0. is the end of the first block's prefix, and what stands before is that of all.
        before = facts.block_prefix(config, 0, self._shapes).split(".")[:-3]
        self._stem = "".join(f"{part}." for part in before)

    def load(self, form: str) -> LoadedModel:
        """Read all tensors, under a progress bar that says in which form.

        Raises:
            CheckpointError: The files lack a tensor, or one holds NaN.
        """
        layers: list[Layer] = []
        with steps(f"load ({form})", self._num_layers) as bar:
            for layer in range(self._num_layers):
                layers.append(self._layer(layer))
                layers[-1].heads.first = sum(before.heads.kv_heads for before in layers[:-1])
                bar.advance()
        all_layers = structs(Layer, layers)
        caches = structs(Cache, [Cache() for _ in layers])
        model = self._model(all_layers, caches)
        shape = self._shape(model, layers)
        return LoadedModel(model, all_layers, caches, shape, self._places, self._adapted)

    def _layer(self, layer: int) -> Layer:
        packed, described = self._matrices(layer), self._described
        dim = facts.head_dim(self._config)
        heads = Heads(
            packed["q"].struct.rows // dim,
            packed["k"].struct.rows // dim,
            dim,
            described.windows[layer],
            0,
            described.scales[layer],
            described.attention_cap,
        )
        return Layer(
            *(packed[role].struct if role in packed else Matrix() for role in ROLES),
            *self._norms(layer),
            self._mixtures.layer(layer),
            heads,
            int(described.are_sliding[layer]),
            described.turned[layer],
        )

    def _matrices(self, layer: int) -> dict[str, Packed]:
        parts = self._parts(layer)
        reader = shown(self._reader, parts)
        found = {}
        for part in parts:
            packed = found[part.role] = self._weights.matrix(reader, part.name, part.bias)
            shape = packed.struct.rows, packed.struct.cols
            if part.is_whole:
                self._places.add_matrix(layer, ROLES.index(part.role), part.name, shape)
            self._adapted.add(self._module_name(part), layer, part, self._shapes)
        return found

    def _parts(self, layer: int) -> list[MatrixPart]:
        dim = facts.head_dim(self._config)
        return [
            part
            for linear in facts.linears(self._config, layer, self._shapes)
            if linear.expert is None
            for part in parts_of(linear, linear.whole_shape(self._shapes)[0], dim)
        ]

    def _module_name(self, part: MatrixPart) -> str:
        """Return the name of a matrix's tensor as peft knows it, whatever the files call it."""
        layer = part.linear.layer
        prefix = facts.block_prefix(self._config, layer, self._shapes)
        own = facts.facts_of(self._config).blocks.format(layer=layer)
        return own + part.linear.tensor.removeprefix(prefix)

    def _norms(self, layer: int) -> list[Floats | None]:
        prefix = facts.block_prefix(self._config, layer, self._shapes)
        found: list[Floats | None] = []
        for place, name in enumerate(self._names.norms):
            own = None
            if name:
                own = self._weights.vector(self._reader, prefix + name, is_optional=place > 1)
                self._places.add_norm(layer, place, prefix + name, own)
            found.append(own)
        return found

    def _model(self, layers: "ctypes.Array[Layer]", caches: "ctypes.Array[Cache]") -> Model:
        described, names = self._described, self._names
        embedding, head = self._ends()
        norm = self._weights.vector(self._reader, self._stem + names.norm)
        assert norm is not None
        self._places.add_final(0, self._stem + names.norm, norm)
        shift = None
        if names.shift:
            shift = self._weights.vector(self._reader, self._stem + names.shift)
            self._places.add_final(1, self._stem + names.shift, shift)
        hidden, is_gemma = embedding.struct.cols, self._config["model_type"].startswith("gemma")
        return Model(
            *(embedding.struct, head.struct, norm, shift, self._positions()),
            *(layers, caches, self._num_layers, hidden, ACTIVATIONS[described.activation]),
            *(described.epsilon, float(is_gemma)),
            # As a float16 checkpoint of Gemma was trained: the factor itself stays in float32.
            float(np.float32(hidden**0.5)) if is_gemma else 1.0,
            *(described.final_cap, described.clip, described.is_centred, described.is_parallel),
            *(0, 0),
        )

    def _ends(self) -> tuple[Packed, Packed]:
        """Return the embedding and the head."""
        reader, name = self._reader, self._stem + self._names.embedding
        embedding = self._weights.matrix(reader, name, None)
        head_name = next((n for n in reader.tensors if n.endswith(facts.HEADS)), None)
        is_tied = head_name is None or head_name in reader.tied
        head = embedding if is_tied else self._weights.matrix(reader, str(head_name), None)
        if not is_tied:  # a token reads one row of an embedding that is not the head
            self._weights.discount(embedding)
        self._places.add_end(0, name, embedding.struct)
        self._places.add_end(1, name if is_tied else str(head_name), head.struct)
        return embedding, head

    def _positions(self) -> Floats | None:
        """Return the table of learned positions, if there is one, from the first position on."""
        if not self._names.positions:
            return None
        name = self._stem + self._names.positions
        table = self._weights.vector(self._reader, name)
        assert table is not None
        self._weights.num_bytes -= table.nbytes  # a token reads one row of it
        found: Floats = table[self._names.first_position :]
        if len(found) < self._described.max_positions:
            raise CheckpointError(
                f"Tensor '{name}' in '{self._reader.tensors[name].file}' has {len(found)} "
                f"positions, but config.json says {self._described.max_positions}; download both "
                f"again from one place."
            )
        return found

    def _shape(self, model: Model, layers: Sequence[Layer]) -> ModelShape:
        described = self._described
        return ModelShape(
            tuple(layer.heads.kv_heads for layer in layers),
            facts.head_dim(self._config),
            model.head.rows,
            model.hidden,
            described.max_positions,
            tuple(layer.heads.window or None for layer in layers),
            rope_bounds=described.lengths.bounds,
            rope_dynamic_from=described.lengths.dynamic_from,
        )
