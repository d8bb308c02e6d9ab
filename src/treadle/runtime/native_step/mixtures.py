"""The experts of mixtures as the native step reads them; files hold them apart or stacked."""

from typing import Any

from treadle.core.checkpoint import CheckpointReader, require_finite
from treadle.model import facts
from treadle.native.pointers import structs
from treadle.runtime.executor import Floats
from treadle.runtime.linear.held import HeldWeights
from treadle.runtime.linear.packed import Matrix, PackedLayout, Room, pack
from treadle.runtime.native_step.adapters import AdapterPlaces
from treadle.runtime.native_step.parts import MatrixPart, shown
from treadle.runtime.native_step.structs import ExpertLayer, ExpertMlp

__all__ = ["MixtureLoader"]

_ROLES = ("gate", "up", "down")
_SHARED_GATE = "mlp.shared_expert_gate.weight"
_FIRST_CODES = 2
"""The first type of step_matrix.h whose activations are rounded."""


class MixtureLoader:
    """Loads the experts of a model's blocks.

    Args:
        reader: Of the model's files.
        config: Of its text model.
        weights: Packs and counts matrices.
        layout: How the machine's kernel wants them.
        choice: How many experts a token meets, and whether their shares add up to one.
        adapted: Notes what adapters may change.
    """

    def __init__(
        self,
        reader: CheckpointReader,
        config: dict[str, Any],  # Any: JSON values of config.json
        weights: HeldWeights,
        layout: PackedLayout,
        choice: tuple[int, bool],
        adapted: AdapterPlaces,
    ) -> None:
        self._reader, self._config, self._weights = reader, config, weights
        self._layout, self._room = layout, Room()
        self._top_k, self._is_normed = choice
        self._adapted = adapted
        self._shapes = {name: info.shape for name, info in reader.tensors.items()}

    def layer(self, layer: int) -> object | None:
        """Return the struct of a block's experts; None where it has none.

        Raises:
            CheckpointError: A tensor is missing.
        """
        linears = facts.linears(self._config, layer, self._shapes)
        parts = [
            MatrixPart(linear.role, linear, linear.rows)
            for linear in linears
            if linear.expert is not None
        ]
        if not parts:
            return None
        experts = self._experts(parts)
        # As transformers' skeleton was asked; C lays entries out by one width.
        assert 0 < self._top_k <= len(experts)
        assert len({expert.up.rows for expert in experts}) == 1
        first = [matrix for expert in experts for matrix in (expert.gate, expert.up)]
        prefix = facts.block_prefix(self._config, layer, self._shapes)
        own = ExpertLayer(
            self._router(prefix),
            structs(ExpertMlp, experts),
            self._shared_gate(prefix, layer),
            *(len(experts), self._top_k, self._is_normed),
            any(matrix.type >= _FIRST_CODES for matrix in first),
        )
        return structs(ExpertLayer, [own])

    def _experts(self, parts: list[MatrixPart]) -> list[ExpertMlp]:
        # Tensor by tensor, so that one that holds many matrices is decoded and released once.
        parts = sorted(parts, key=lambda part: _ROLES.index(part.role) == len(_ROLES) - 1)
        reader = shown(self._reader, parts)
        found: dict[int, dict[str, Matrix]] = {}
        for part in parts:
            packed = self._weights.matrix(reader, part.name, None)
            expert = part.linear.expert
            assert expert is not None
            if expert >= self._top_k:  # a token meets as many as top_k
                self._weights.discount(packed)
            found.setdefault(expert, {})[part.role] = packed.struct
        return [ExpertMlp(*(found[expert][role] for role in _ROLES)) for expert in sorted(found)]

    def _router(self, prefix: str) -> Matrix:
        """Return the router in float32, whatever the form of other matrices."""
        own = facts.facts_of(self._config)
        stored = prefix + own.routers[0]
        name = stored if stored in self._shapes else prefix + facts.renamed(own.routers[0], own)
        values = self._reader.array(name)
        require_finite(name, values, self._reader.tensors[name].file)
        packed = pack(values, "fp32", self._layout, self._room)
        self._weights.num_bytes += packed.num_bytes
        self._weights.num_weights += packed.struct.rows * packed.struct.cols
        return packed.struct

    def _shared_gate(self, prefix: str, layer: int) -> Floats | None:
        name = prefix + _SHARED_GATE
        found: Floats | None = self._weights.vector(self._reader, name, is_optional=True)
        if found is None:
            return None
        gate: Floats = found.reshape(-1)
        self._adapted.add_gate(name, layer, gate)
        return gate
