"""What a pruning run knows of its model before it changes anything."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from treadle.model.statistics import BlockStatistics
from treadle.shrink.prune.request import PruneRequest
from treadle.shrink.prune.subject import PrunedModel

if TYPE_CHECKING:
    import torch

    from treadle.model.kept import DenseStatistics
    from treadle.model.layers import LayeredModel
    from treadle.model.text import Windows

__all__ = ["Evidence", "gather"]


class Evidence(NamedTuple):
    """What calibration found; None or empty where nobody asked for it."""

    windows: "Windows | None"
    model: "LayeredModel | None"
    dense: "DenseStatistics | None"
    gradients: "dict[str, torch.Tensor]"

    @property
    def known(self) -> Callable[[int], BlockStatistics] | None:
        """What is known of a block's inputs without running it."""
        return None if self.dense is None else self.dense.block


def gather(request: PruneRequest, subject: PrunedModel, windows: "Windows | None") -> Evidence:
    """Collect what the methods need of the unpruned model.

    Raises:
        CapacityError: The calibration tokens do not fit into memory.
    """
    model = _layered_model(request, subject, windows)
    dense = _dense_statistics(request, model, windows)
    return Evidence(windows, model, dense, _gradients(request, subject, windows))


def _layered_model(
    request: PruneRequest, subject: PrunedModel, windows: "Windows | None"
) -> "LayeredModel | None":
    from treadle.model.blockwise import require_memory
    from treadle.model.layers import LayeredModel

    if not request.needs_inputs and not request.allocation.needs:
        return None
    if request.needs_inputs and request.mode == "one-pass" and windows is not None:
        require_memory(windows.tokens.numel(), subject.layers[0], subject.shapes)
    return LayeredModel(subject.reader, subject.trust_remote_code)


def _dense_statistics(
    request: PruneRequest, model: "LayeredModel | None", windows: "Windows | None"
) -> "DenseStatistics | None":
    from treadle.model.kept import DenseStatistics

    if model is None or windows is None or not request.needs_dense:
        return None
    needs_gram = "gram" in request.needs and request.mode == "dense"
    dense = DenseStatistics(model, windows.tokens, needs_gram)
    dense.collect()
    return dense


def _gradients(
    request: PruneRequest, subject: PrunedModel, windows: "Windows | None"
) -> "dict[str, torch.Tensor]":
    from treadle.model.statistics import collect_gradients

    if "gradient" not in request.needs or windows is None:
        return {}
    return collect_gradients(subject.reader.folder, windows.tokens, subject.trust_remote_code)
