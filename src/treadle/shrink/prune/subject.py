"""The model that is pruned: its matrices, checked against the pattern."""

from typing import TYPE_CHECKING, Any, NamedTuple

from treadle.core.checkpoint import CheckpointReader
from treadle.model.resize.widths import Coupling, couplings
from treadle.shrink.prune.patterns import Pattern, require_divisible

if TYPE_CHECKING:
    from treadle.model.facts import Linear

__all__ = ["PrunedModel", "read_subject"]


class PrunedModel(NamedTuple):
    """What a run reads off the checkpoint's headers."""

    reader: CheckpointReader
    config: dict[str, Any]  # Any: JSON values
    shapes: dict[str, tuple[int, ...]]
    layers: list[list["Linear"]]
    trust_remote_code: bool

    def couplings(self, pattern: Pattern, layer: int) -> list[Coupling]:
        """Return the groups of a block that go together under a structured pattern."""
        if not pattern.is_structured:
            return []
        return couplings(pattern.kind, self.layers[layer], self.config, self.shapes)


def read_subject(
    reader: CheckpointReader, pattern: Pattern, trust_remote_code: bool
) -> PrunedModel:
    """Read the headers, and check that weights, config and pattern belong together.

    Raises:
        CheckpointError: Weights and config do not fit each other.
        UnsupportedModelError: The architecture has no facts, or they miss a matrix.
        SettingsError: The pattern does not divide a matrix.
    """
    from treadle.model.belonging import require_filled, require_named, shapes_of
    from treadle.model.blockwise import layers_of
    from treadle.model.facts import base_config, is_wrapper
    from treadle.model.load import skeleton

    config, shapes = base_config(reader.config), shapes_of(reader)
    # Checks, whether or not this run will build the module.
    module = skeleton(reader, trust_remote_code)
    layers = layers_of(reader)
    require_named(module, layers, config)
    if is_wrapper(reader.config):
        require_filled(reader)  # its other towers go along
    for matrices in layers:
        for matrix in matrices:
            require_divisible(pattern, matrix.whole_shape(shapes)[1], matrix.tensor)
    return PrunedModel(reader, config, shapes, layers, trust_remote_code)
