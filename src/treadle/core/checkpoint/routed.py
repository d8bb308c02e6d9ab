"""Routed bundles: folders of several whole models, and of what chooses among them."""

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from treadle.core.checkpoint.described import ROUTED, read_config
from treadle.core.checkpoint.hashing import content_hash
from treadle.core.checkpoint.header import MappedFiles
from treadle.core.checkpoint.reader import CheckpointReader
from treadle.core.errors import CheckpointError

__all__ = [
    "EXPERTS",
    "ROUTER_FILE",
    "ROUTING_FILE",
    "BundleReader",
    "NgramFeatures",
    "Routing",
    "bundle_config",
    "bundle_hash",
    "read_routing",
]

EXPERTS, ROUTING_FILE, ROUTER_FILE = "experts", "routing.json", "router.safetensors"
_NAME = re.compile(r"\w[\w.-]*")
_Order = Annotated[int, Field(ge=1, le=16)]


class NgramFeatures(BaseModel):
    """Texts as counts of their n-grams of characters, hashed into so many places."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["ngrams"] = "ngrams"
    width: Annotated[int, Field(ge=1, le=1 << 20)] = 4096
    """Places of the whole text, and as many again of its end."""
    orders: Annotated[tuple[_Order, ...], Field(min_length=1)] = (1, 2, 3)
    """Lengths of the n-grams, in characters."""
    tail_characters: Annotated[int, Field(ge=1)] = 12
    """How long the end is that is counted once more: there stands what is asked."""


class Routing(BaseModel):
    """Which of several models answers a prompt: routing.json of a bundle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    level: Literal["model"] = "model"
    """What an expert is: a whole model, chosen once for each prompt."""
    experts: tuple[str, ...]
    """Names of folders below experts/, in the order of the router's rows."""
    features: NgramFeatures = NgramFeatures()


def bundle_config(experts: list[str]) -> dict[str, object]:
    """Return the config.json of a bundle, which foreign loaders refuse by its model_type."""
    return {"model_type": ROUTED, "architectures": ["TreadleRouted"], "treadle_experts": experts}


def read_routing(folder: Path) -> Routing:
    """Return what a bundle says of its experts.

    Raises:
        CheckpointError: It is damaged, or an expert is missing.
    """
    file = folder / ROUTING_FILE
    try:
        found = Routing.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"{file} does not say which model answers what ({reason}); copy the bundle again."
        ) from error
    named = read_config(folder / "config.json").get("treadle_experts")
    if list(found.experts) != named or len(set(found.experts)) < len(found.experts):
        raise CheckpointError(
            f"{file} names the experts {list(found.experts)}, and config.json beside it {named}, "
            f"but each was expected once and in one order; copy the bundle again."
        )
    for name in found.experts:
        if not _NAME.fullmatch(name) or not (folder / EXPERTS / name / "config.json").is_file():
            raise CheckpointError(
                f"The bundle '{folder}' has no expert '{name}' below {EXPERTS}/; copy the whole "
                f"folder again."
            )
    return found


def bundle_hash(folder: Path) -> str:
    """Return a hash of all numbers of a bundle, and of how it chooses.

    Raises:
        CheckpointError: It is damaged.
    """
    experts = read_routing(folder).experts
    found = {name: content_hash(folder / EXPERTS / name) for name in experts}
    for name in (ROUTING_FILE, ROUTER_FILE):
        if not (folder / name).is_file():
            raise CheckpointError(f"The bundle '{folder}' has no {name}; copy the folder again.")
        found[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


class BundleReader(CheckpointReader):
    """All weights of a bundle as one checkpoint: each under its expert's name.

    It says which numbers a bundle holds, and is no model by itself.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = read_config(folder / "config.json")
        self.tensors = {}
        for name in read_routing(folder).experts:
            with CheckpointReader(folder / EXPERTS / name) as expert:
                self.tensors |= {f"{name}/{own}": info for own, info in expert.tensors.items()}
        self._files = MappedFiles()

    @property
    def tied(self) -> dict[str, str]:
        """No name stands for another one."""
        return {}
