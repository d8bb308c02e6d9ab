"""Tensors that are taken over as they are, because there is nothing to merge in them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from treadle.combine.merge.inputs.models import Model
from treadle.combine.merge.inputs.towers import parse_name
from treadle.core.checkpoint import CheckpointWriter, PlannedTensor, TensorInfo, require_finite
from treadle.core.codec import FLOATS
from treadle.core.errors import CheckpointError

__all__ = ["Carried", "carried", "is_left_out", "write_carried"]

Members = Sequence[tuple[Model, str]]
"""Models, each with its name of a tensor of the output."""


class Carried(NamedTuple):
    """A tensor of the output that is one model's, byte for byte."""

    name: str
    model: Model
    info: TensorInfo
    note: str

    @property
    def planned(self) -> PlannedTensor:
        """The tensor as the writer knows it."""
        return PlannedTensor(self.name, self.info.dtype, self.info.shape)


def is_left_out(members: Members) -> str:
    """Return a note if the output does without a tensor: no config reads it, and a model lacks it.

    Empty where it is merged. Inside a layer such a tensor says that a config is another model's.
    """
    having = [(model, name) for model, name in members if model.has(name)]
    if len(having) == len(members) or not all(_is_extra(model, name) for model, name in having):
        return ""
    (owner, name), lacking = having[0], next(m for m, own in members if not m.has(own))
    return (
        f"'{owner.own_name(name)}' of '{owner.ref}' has no place in the model that its config.json "
        f"describes, and '{lacking.ref}' has none: left out."
    )


def carried(members: Members, out: str) -> Carried | None:
    """Return a tensor that is taken over, or None for one that is merged.

    Whole numbers and truth values are (positions, masks), where the models have the same; so is
    what no config reads, where a model has NaN there.

    Raises:
        CheckpointError: Whole numbers differ.
    """
    having = [(model, info) for model, name in members if (info := model.info(name)) is not None]
    if any(info.dtype not in FLOATS for _, info in having):
        (model, info), *others = having
        for other, their_info in others:
            _require_equal(model, info, other, their_info)
        return Carried(
            out, model, info, f"'{out}' holds {info.dtype}, so it is taken over as it is."
        )
    if having and all(_is_extra(model, name) for model, name in members):
        for model, info in having:
            try:
                require_finite(info.name, model.reader.array(info.name))
            except CheckpointError:
                owner, own = having[0]
                note = (
                    f"'{info.name}' of '{model.ref}' holds numbers that are not finite, and no "
                    f"config.json has a place for it: taken over from '{owner.ref}' as it is."
                )
                return Carried(out, owner, own, note)
    return None


def write_carried(tensors: Sequence[Carried], writer: CheckpointWriter) -> None:
    """Write what is taken over, unless an interrupted run has."""
    todo = [one for one in tensors if one.name not in writer.done]
    for one in todo:
        writer.write(one.name, one.model.reader.array(one.info.name))
        one.model.reader.release(one.info.name)
    writer.mark_done([one.name for one in todo])


def _is_extra(model: Model, name: str) -> bool:
    return model.is_unread(name) and parse_name(name).layer is None


def _require_equal(model: Model, info: TensorInfo, other: Model, theirs: TensorInfo) -> None:
    is_alike = (info.dtype, info.shape) == (theirs.dtype, theirs.shape)
    ours, other_own = model.reader.array(info.name), other.reader.array(theirs.name)
    if not is_alike or not np.array_equal(ours, other_own):
        raise CheckpointError(
            f"Tensor '{info.name}' holds {info.dtype} {list(info.shape)} in '{model.ref}' and "
            f"{theirs.dtype} {list(theirs.shape)} in '{other.ref}', and they differ: only floats "
            f"can be merged. If these are quantised weights, give the models that they were made "
            f"from; if not, remove the tensor from both."
        )
