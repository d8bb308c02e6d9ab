"""Bundles whose experts differ in some layers: one dense model, and what each expert has else.

DENSE/ is a plain model folder. Beside it lies a safetensors file for each expert. Of a tensor in
which the expert has numbers of its own everywhere, or of a vector, the file has `NAME`; otherwise
`NAME.values`, the expert's own numbers where it keeps them, and `NAME.kept`, a bit for each number
of the tensor that says where (the first in the highest bit of the first byte). Everywhere else the
expert is the dense model.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from treadle.core.checkpoint.described import read_config
from treadle.core.checkpoint.hashing import file_hash
from treadle.core.checkpoint.header import MappedFiles, read_header
from treadle.core.checkpoint.reader import require_finite
from treadle.core.checkpoint.routed import EXPERTS, ROUTING_FILE, NgramFeatures, require_names
from treadle.core.codec import Array
from treadle.core.errors import CheckpointError, SettingsError
from treadle.core.registry import near

__all__ = [
    "DENSE",
    "Decision",
    "ExpertFile",
    "LayerRouting",
    "expert_file",
    "packed_changes",
    "read_layer_routing",
    "require_same_file",
    "says_layers",
    "shares_in",
]

DENSE = "dense"
_KEPT, _VALUES = ".kept", ".values"
_Share = Annotated[float, Field(ge=0, le=1)]


class Decision(BaseModel):
    """When one expert answers a prompt alone, and how several are mixed otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    temperature: Annotated[float, Field(gt=0)] = 1.0
    """By which the kinds' scores are divided, fitted on prompts that the kinds were not made of."""
    certain: _Share = 0.2
    """Entropy of the experts' probabilities, of at most 1, up to which the likeliest is alone."""
    mass: _Share = 0.9
    """Otherwise the likeliest ones are mixed that hold so much of the probability."""
    farthest: tuple[Annotated[float, Field(ge=0)], ...] = ()
    """Of each kind: the distance beyond which the prompts nearest to it are of no known kind."""
    strangers: Literal["mean", "mix", "dense"] = "mean"
    """What answers such a prompt: the mean of all experts, their mixture, or none of them."""


class LayerRouting(BaseModel):
    """Which experts answer a prompt in the layers that they have of their own: routing.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    level: Literal["layers"] = "layers"
    experts: tuple[str, ...]
    """Names of the files below experts/, in the order of the router's columns."""
    layers: tuple[str, ...]
    """The layers that experts have of their own."""
    files: dict[str, str]
    """Expert -> sha256 of its file."""
    density: _Share
    """Which share of the numbers of a matrix there each expert keeps."""
    features: NgramFeatures | None = None
    """Of the router; None: there is none, and the dense model answers who names no expert."""
    decision: Decision = Decision()


def says_layers(folder: Path) -> bool:
    """Say whether a bundle is one whose experts differ in some layers only."""
    return read_config(folder / "config.json").get("treadle_level") == "layers"


def expert_file(folder: Path, name: str) -> Path:
    """Return where the numbers of an expert lie in a bundle."""
    return folder / EXPERTS / f"{name}.safetensors"


def read_layer_routing(folder: Path) -> LayerRouting:
    """Return what a bundle says of its experts.

    Raises:
        CheckpointError: It is damaged, or a part is missing.
    """
    file = folder / ROUTING_FILE
    try:
        found = LayerRouting.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"{file} does not say which experts answer what ({reason}); copy the bundle again."
        ) from error
    require_names(folder, found.experts)
    parts = [folder / DENSE / "config.json", *(expert_file(folder, e) for e in found.experts)]
    for part in parts:
        if not part.is_file():
            raise CheckpointError(
                f"The bundle '{folder}' has no {part.relative_to(folder)}; copy the whole folder "
                f"again."
            )
    return found


def require_same_file(folder: Path, routing: LayerRouting, name: str) -> None:
    """Check that an expert's file is the one that the bundle was made with.

    Raises:
        CheckpointError: It is another one.
    """
    file = expert_file(folder, name)
    if file_hash(file) != routing.files.get(name):
        raise CheckpointError(
            f"{file} is not the file that the bundle was made with, as its sha256 in "
            f"{ROUTING_FILE} says; copy the whole folder again."
        )


def shares_in(text: str, experts: Sequence[str]) -> dict[str, float]:
    """Return how much of which experts a text asks for: NAME for one, or NAME=SHARE,NAME=SHARE.

    Raises:
        SettingsError: There is no such expert, or a share is none.
    """
    if text in experts:
        return {text: 1.0}
    found: dict[str, float] = {}
    for entry in text.split(","):
        name, sign, said = entry.strip().rpartition("=")
        name = name if sign else said
        if name not in experts:
            raise SettingsError(f"The bundle has no expert '{name}'. {near(name, list(experts))}")
        try:
            share = float(said)
        except ValueError:
            share = -1.0
        if not sign or not 0 <= share <= 1 or name in found:
            raise SettingsError(
                f"Found '{entry}' in a mixture, expected NAME=SHARE with a share between 0 and 1, "
                f"and each expert once, such as {experts[0]}=0.5."
            )
        found[name] = share
    return found


def packed_changes(
    name: str, dtype: str, values: Array, kept: Array | None
) -> dict[str, tuple[str, Array]]:
    """Return what a file has of a tensor: name -> dtype code and array.

    Args:
        name: Of the tensor.
        dtype: The safetensors code of `values`.
        values: The expert's tensor.
        kept: Mask of the same shape, where its numbers are its own; None: everywhere.
    """
    if kept is None:
        return {name: (dtype, values)}
    return {
        name + _VALUES: (dtype, values[kept]),
        name + _KEPT: ("U8", np.packbits(kept.reshape(-1))),
    }


class ExpertFile:
    """The numbers of one expert, over the dense model's.

    Args:
        file: See above.
        shapes: Name -> shape of the dense model's tensors.

    Raises:
        CheckpointError: It is damaged, or of another model.
    """

    def __init__(self, file: Path, shapes: Mapping[str, Sequence[int]]) -> None:
        self.file, self._files = file, MappedFiles()
        self._infos = {info.name: info for info in read_header(file)}
        self._shapes = shapes
        stems = [n.removesuffix(_VALUES).removesuffix(_KEPT) for n in self._infos]
        self.names = list(dict.fromkeys(stems))
        for name in self.names:
            self._require(name)

    def tensor(self, name: str, dense: Array) -> Array:
        """Return a tensor as the expert has it, in the dtype of `dense`, which is the dense one.

        Raises:
            CheckpointError: The mask keeps more or fewer numbers than there are, or one is NaN.
        """
        is_whole = name in self._infos
        values, size = self._view(name if is_whole else name + _VALUES), int(np.prod(dense.shape))
        require_finite(name, values, self.file)
        if is_whole:
            return values.astype(dense.dtype, copy=True)
        kept = np.unpackbits(self._view(name + _KEPT), count=size).view(np.bool_)
        if int(kept.sum()) != len(values):
            self._refuse(f"has {len(values)} numbers of '{name}', but keeps {int(kept.sum())}")
        found = np.array(dense).reshape(-1)
        found[kept] = values
        return found.reshape(dense.shape)

    def close(self) -> None:
        """Let go of the file."""
        self._files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _view(self, name: str) -> Array:
        return self._files.view(self._infos[name])

    def _require(self, name: str) -> None:
        shape = self._shapes.get(name)
        if shape is None:
            self._refuse(f"has numbers of '{name}', which the dense model does not have")
            return
        if name in self._infos:
            if self._infos[name].shape != tuple(shape):
                self._refuse(f"has '{name}' of shape {list(self._infos[name].shape)}")
            return
        size = int(np.prod(shape))
        kept = self._infos.get(name + _KEPT)
        if name + _VALUES not in self._infos or kept is None or kept.dtype != "U8":
            self._refuse(f"lacks a part of '{name}'")
        elif kept.shape != (-(-size // 8),):
            self._refuse(f"says for {8 * kept.num_bytes} numbers of '{name}', which has {size}")

    def _refuse(self, what: str) -> None:
        raise CheckpointError(f"{self.file} {what}; copy the bundle again.")
