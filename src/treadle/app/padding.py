"""Zero-padding: the uniform model that computes what a folder of differing widths computes.

A padded neuron has zero columns in `down`, a padded head in `o`: whatever it computes is multiplied
by zero. A place in a padded tensor is found as the inverse of the cut that would remove the rest.
"""

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from treadle.core.checkpoint import CheckpointReader
from treadle.core.codec import Array
from treadle.core.errors import CheckpointError, TreadleError, UnsupportedModelError
from treadle.model import facts
from treadle.model.belonging import shapes_of
from treadle.model.facts import NONUNIFORM, base_config
from treadle.model.load import on_disk, skeleton
from treadle.model.resize.widths import Coupling, Pick, couplings, picks, resized_config

__all__ = ["Padding", "padded", "plan_padding"]

Config = dict[str, Any]  # Any: JSON values
Shapes = dict[str, tuple[int, ...]]
_KINDS = ("neurons", "heads")


class Padding(NamedTuple):
    """How a folder of differing widths becomes a uniform one."""

    config: Config
    """The architecture's own, which every loader reads."""
    shapes: Shapes
    """Of all tensors, padded."""
    places: dict[str, Pick]
    """Which indices of a padded tensor hold the stored numbers; the others are zero."""
    widths: dict[str, tuple[list[int], int]]
    """What differs -> the numbers found in the blocks, and the number that all get."""


class _Padded(NamedTuple):
    """One coupling of one block, and how many groups it shall have."""

    kind: str
    layer: int
    place: int
    """Its place among the couplings of its kind and block."""
    coupling: Coupling
    target: int


def plan_padding(reader: CheckpointReader) -> Padding:
    """Return how to pad every block to the widest one, checked against what the config makes.

    Some configs refuse numbers of heads that do not divide the hidden size: the heads are padded
    to the next number that the architecture takes.

    Raises:
        UnsupportedModelError: The architecture's config cannot say the padded shapes.
        CheckpointError: Tensors are missing, or have no neurons or heads at all.
    """
    whole = reader.config["treadle_base"]
    config, shapes = base_config(whole), shapes_of(reader)
    found = list(_couplings(config, shapes))
    widest = max(p.coupling.num_groups for p in found if p.kind == "heads")
    own = facts.num_kv_heads(config)
    if not facts.facts_of(config).head_width:
        # Such a config says a head's width as hidden size / heads: the heads are its own number.
        widest = own
    refusal: Exception | None = None
    for num_heads in range(widest, max(widest, own) + 1):
        try:
            padding = _pad(whole, shapes, _with_targets(found, num_heads))
        except UnsupportedModelError as error:
            refusal = error
            continue
        try:
            _require_shapes(reader, padding)
        except TreadleError:
            raise
        except Exception as error:  # transformers' configs raise many unrelated types
            refusal = error
        else:
            return padding
    raise UnsupportedModelError(
        f"No config of model_type '{config['model_type']}' can say the padded shapes of "
        f"'{reader.folder}' ({refusal}); load the folder with treadle, which needs no padding."
    ) from refusal


def _pad(whole: Config, shapes: Shapes, chosen: list[_Padded]) -> Padding:
    widened = _padded_shapes(chosen, shapes)
    places = _places(base_config(whole), chosen, widened)
    return Padding(_padded_config(whole, chosen), widened, places, _widths(chosen))


def padded(values: Array, shape: tuple[int, ...], place: Pick | None) -> Array:
    """Return `values` in a larger tensor of zeros, or as they are where nothing is padded."""
    if place is None:
        return values
    larger = np.zeros(shape, values.dtype)
    larger[(slice(None),) * place.axis + (place.indices,)] = values
    return larger


def _couplings(config: Config, shapes: Shapes) -> Iterator[_Padded]:
    """Yield every coupling of every block, with the width that it has."""
    for layer in range(facts.num_layers(config)):
        matrices = facts.linears(config, layer, shapes)
        for kind in _KINDS:
            for place, coupling in enumerate(couplings(kind, matrices, config, shapes)):
                _require_groups(coupling)
                yield _Padded(kind, layer, place, coupling, coupling.num_groups)


def _with_targets(found: list[_Padded], num_heads: int) -> list[_Padded]:
    """Return them with the heads asked for, and the neurons of the widest of each family."""
    widest = {"heads": num_heads}
    for coupling in (p.coupling for p in found if p.kind == "neurons"):
        widest[_family(coupling)] = max(widest.get(_family(coupling), 0), coupling.num_groups)
    return [p._replace(target=widest[_family(p.coupling)]) for p in found]


def _family(coupling: Coupling) -> str:
    """Return what a config states one width for: heads, or neurons of one kind of MLP."""
    stem = coupling.last.input.partition(".")[0].removesuffix("_in")
    return {"o": "heads", "down": "neurons"}.get(stem, stem.replace("_down", " neurons"))


def _require_groups(coupling: Coupling) -> None:
    if coupling.num_groups == 0:
        raise CheckpointError(
            f"Tensor '{coupling.last.tensor}' reads no neurons or heads at all; download the "
            f"checkpoint again, or prune less."
        )


def _padded_shapes(chosen: list[_Padded], shapes: Shapes) -> Shapes:
    widened = dict(shapes)
    for _, _, _, coupling, target in chosen:
        for name, pick in picks([(coupling, range(coupling.num_groups))], shapes).items():
            size = shapes[name][pick.axis] // coupling.num_groups * target
            shape = shapes[name]
            widened[name] = (*shape[: pick.axis], size, *shape[pick.axis + 1 :])
    return widened


def _places(config: Config, chosen: list[_Padded], widened: Shapes) -> dict[str, Pick]:
    """Return where the stored numbers lie in each padded tensor."""
    matrices = {p.layer: facts.linears(config, p.layer, widened) for p in chosen}
    places: dict[str, Pick] = {}
    for kind, layer, place, coupling, target in chosen:
        if coupling.num_groups != target:
            larger = couplings(kind, matrices[layer], config, widened)[place]
            places |= picks([(larger, range(coupling.num_groups))], widened)
    return places


def _padded_config(whole: Config, chosen: list[_Padded]) -> Config:
    """Return the config with the widths that all blocks get."""
    wanted = {kind: [[(p.coupling, p.target) for p in chosen if p.kind == kind]] for kind in _KINDS}
    changed = resized_config("neurons", whole, wanted["neurons"], False)
    if all(target == facts.num_kv_heads(base_config(whole)) for _, target in wanted["heads"][0]):
        return changed
    return resized_config("heads", changed, wanted["heads"], False)


def _widths(chosen: list[_Padded]) -> dict[str, tuple[list[int], int]]:
    widths: dict[str, tuple[list[int], int]] = {}
    for family in dict.fromkeys(_family(p.coupling) for p in chosen):
        alike = [p for p in chosen if _family(p.coupling) == family]
        found = sorted({p.coupling.num_groups for p in alike})
        if found != [alike[0].target]:
            widths["key-value heads" if family == "heads" else family] = found, alike[0].target
    return widths


def _require_shapes(reader: CheckpointReader, padding: Padding) -> None:
    """Check that the architecture, built from the padded config, has exactly the padded shapes."""
    planned = copy.copy(reader)
    # Wrapped, so that the shapes on disk, which are not the padded ones, are not compared.
    planned.config = {"model_type": NONUNIFORM, "treadle_base": padding.config}
    parameters = dict(skeleton(planned).named_parameters())
    config = base_config(padding.config)
    matrices = [
        matrix
        for layer in range(facts.num_layers(config))
        for matrix in facts.linears(config, layer, padding.shapes)
    ]
    for name, parameter in on_disk(reader.folder, parameters, matrices):
        found = padding.shapes[reader.tied.get(name, name)]
        if found != tuple(parameter.shape):
            raise UnsupportedModelError(
                f"Tensor '{name}' of '{reader.folder}' would have shape {list(found)} when padded, "
                f"but a config of model_type '{config['model_type']}' makes it "
                f"{list(parameter.shape)}; load the folder with treadle, which needs no padding."
            )
