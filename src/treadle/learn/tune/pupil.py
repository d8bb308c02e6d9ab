"""The model that is tuned: in memory, with what of it learns."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from treadle.core.checkpoint import CheckpointReader
from treadle.core.errors import SettingsError
from treadle.learn.tune.request import TuneRequest
from treadle.learn.tune.writing import require_plain, stored_as

if TYPE_CHECKING:
    import torch

    from treadle.model.classes import CausalLM

__all__ = ["Pupil", "pupil_of"]


class Rounding(NamedTuple):
    """How many weights learned, and how many of them still differ once they are written."""

    num_changed: int
    num_kept: int


class Pupil(NamedTuple):
    """A model that learns."""

    folder: Path
    model: "CausalLM"
    names: list[str]
    """Of the parameters that learn."""
    adapter: dict[str, Any] | None  # Any: JSON values
    """peft's config, where factors learn."""
    zeros: "dict[str, torch.Tensor]"
    """Where weights are zero that shall stay so, by their parameters' names."""

    @property
    def num_learning(self) -> int:
        """How many numbers learn."""
        return sum(self.model.get_parameter(name).numel() for name in self.names)

    @property
    def num_parameters(self) -> int:
        """How many numbers the model has, without its adapter."""
        skipped = set(self.names) if self.adapter is not None else set()
        return sum(p.numel() for n, p in self.model.named_parameters() if n not in skipped)

    def round_as_written(self, reader: CheckpointReader, dtype: str | None) -> Rounding:
        """Give what learned the values that it will have on disk, and count what that takes back.

        Args:
            reader: The model before.
            dtype: As it is written; None: as it was.
        """
        import torch

        num_changed = num_kept = 0
        for name, values in self.on_disk().items():
            info = reader.tensors[reader.tied.get(name, name)]
            code = stored_as(info, dtype)
            before = reader.tensor(info.name).float()
            num_changed += int((values != before).sum())
            kind = {"F16": torch.float16, "BF16": torch.bfloat16}.get(code)
            if kind is not None:
                values.copy_(values.to(kind))
            num_kept += int((values != before).sum())
            reader.release(info.name)
        return Rounding(num_changed, num_kept)

    def on_disk(self) -> "dict[str, torch.Tensor]":
        """Return what learned, by the names and in the shapes of the folder."""
        return _on_disk(self.folder, self.model, self.names)


def pupil_of(
    request: TuneRequest, folder: Path, reader: CheckpointReader, name: str, trusted: bool
) -> Pupil:
    """Load a model and choose what learns.

    Raises:
        SettingsError: Nothing does.
        UnsupportedModelError: What learns cannot be written, or the architecture is not known.
    """
    from treadle.model.adapters.training import LEARNING, add_factors, block_matrices
    from treadle.model.load import full

    model = full(folder, trust_remote_code=trusted)
    learner = request.learner
    if learner.is_adapter:
        chosen = learner.names(block_matrices(model))
        settings = learner.settings()
        adapter = add_factors(
            model, chosen, int(settings["rank"]), float(settings["alpha"]), request.seed
        )
        is_hub = name.count("/") == 1 and not Path(name).exists()
        adapter["base_model_name_or_path"] = name if is_hub else str(folder.resolve())
        names = [n for n, _ in model.named_parameters() if re.search(LEARNING, n)]
        return Pupil(folder, model, names, adapter, {})
    shapes = {n: tuple(p.shape) for n, p in model.named_parameters() if p.is_floating_point()}
    names = learner.names(shapes)
    if not names:
        raise SettingsError(
            f"'{learner.name}' finds nothing that could learn among the model's {len(shapes)} "
            f"parameters, which are called like '{next(iter(shapes))}'; use another --learn."
        )
    require_plain(reader, list(_on_disk(folder, model, names)))
    return Pupil(folder, model, names, None, _zeros(request, model, names))


def _zeros(request: TuneRequest, model: "CausalLM", names: list[str]) -> "dict[str, torch.Tensor]":
    if not request.keep_zeros:
        return {}
    found = {n: model.get_parameter(n).detach() == 0 for n in names}
    # Whole neurons or heads that were pruned left none behind.
    return {n: mask for n, mask in found.items() if mask.dim() > 1 and bool(mask.any())}


def _on_disk(folder: Path, model: "CausalLM", names: list[str]) -> "dict[str, torch.Tensor]":
    from treadle.model.blockwise import layers_of
    from treadle.model.load import on_disk
    from treadle.model.source import open_model

    with open_model(folder) as reader:
        matrices = [matrix for some in layers_of(reader) for matrix in some]
    parameters = {name: model.get_parameter(name).detach() for name in names}
    return dict(on_disk(folder, parameters, matrices))
