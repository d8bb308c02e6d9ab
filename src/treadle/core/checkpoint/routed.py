"""Routed bundles: folders of several whole models, and of what chooses among them."""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from treadle.core.checkpoint.described import ROUTED, read_config
from treadle.core.checkpoint.hashing import content_hash, file_hash
from treadle.core.checkpoint.header import MappedFiles, read_header
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
    "is_expert_name",
    "read_routing",
    "require_names",
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
    require_names(folder, found.experts)
    for name in found.experts:
        if not (folder / EXPERTS / name / "config.json").is_file():
            raise CheckpointError(
                f"The bundle '{folder}' has no expert '{name}' below {EXPERTS}/; copy the whole "
                f"folder again."
            )
    return found


def require_names(folder: Path, experts: Sequence[str]) -> None:
    """Check that routing.json and config.json of a bundle name the same experts, each once.

    Raises:
        CheckpointError: They do not, or a name is none of a file.
    """
    named = read_config(folder / "config.json").get("treadle_experts")
    if list(experts) != named or len(set(experts)) < len(experts):
        raise CheckpointError(
            f"{folder / ROUTING_FILE} names the experts {list(experts)}, and config.json beside it "
            f"{named}, but each was expected once and in one order; copy the bundle again."
        )
    for name in experts:
        if not is_expert_name(name):
            raise CheckpointError(
                f"The bundle '{folder}' has an expert '{name}', which is no name of a file; copy "
                f"the whole folder again."
            )


def is_expert_name(name: str) -> bool:
    """Say whether an expert may be called so: its file or folder is."""
    return _NAME.fullmatch(name) is not None


def bundle_hash(folder: Path) -> str:
    """Return a hash of all numbers of a bundle, and of how it chooses.

    Raises:
        CheckpointError: It is damaged.
    """
    from treadle.core.checkpoint import layered  # which is built on this

    files = [ROUTING_FILE, ROUTER_FILE]
    if layered.says_layers(folder):
        routing = layered.read_layer_routing(folder)
        found = {layered.DENSE: content_hash(folder / layered.DENSE)}
        files = files if routing.features else [ROUTING_FILE]
        files += [f"{EXPERTS}/{name}.safetensors" for name in routing.experts]
    else:
        experts = read_routing(folder).experts
        found = {name: content_hash(folder / EXPERTS / name) for name in experts}
    for name in files:
        if not (folder / name).is_file():
            raise CheckpointError(f"The bundle '{folder}' has no {name}; copy the folder again.")
        found[name] = file_hash(folder / name)
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


class BundleReader(CheckpointReader):
    """All weights of a bundle as one checkpoint: each under its expert's name.

    It says which numbers a bundle holds, and is no model by itself.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = read_config(folder / "config.json")
        self.tensors = {}
        self._files = MappedFiles()
        from treadle.core.checkpoint import layered  # which is built on this

        if layered.says_layers(folder):
            names = layered.read_layer_routing(folder).experts
            for name in names:
                infos = read_header(layered.expert_file(folder, name))
                self.tensors |= {f"{name}/{info.name}": info for info in infos}
            parts = {layered.DENSE: folder / layered.DENSE}
        else:
            parts = {name: folder / EXPERTS / name for name in read_routing(folder).experts}
        for name, part in parts.items():
            with CheckpointReader(part) as expert:
                self.tensors |= {f"{name}/{own}": info for own, info in expert.tensors.items()}

    @property
    def tied(self) -> dict[str, str]:
        """No name stands for another one."""
        return {}
