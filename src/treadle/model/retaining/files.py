"""The side file of retaining heads: one for each policy that has trained ones."""

import json
from pathlib import Path

import numpy as np

from treadle.core.checkpoint.hashing import content_hash
from treadle.core.checkpoint.manifest import SideFile, read_manifest
from treadle.core.checkpoint.sidefiles import KINDS
from treadle.core.errors import CheckpointError, SettingsError
from treadle.model.retaining.heads import LayerHeads, RetainingHeads

__all__ = ["KIND", "file_name", "read_heads", "write_heads"]

KIND = "retaining-heads"
"""Of the side file."""
_KINDS = {"linear", "mlp", "gate"}
_READS = {"projections", "hidden"}
_ACTIVATIONS = {"silu", "gelu", "relu"}


def file_name(policy: str) -> str:
    """Return the name of the side file of a policy's heads."""
    return f"retaining-{policy}.safetensors"


def write_heads(file: Path, heads: RetainingHeads, policy: str) -> None:
    """Write the heads of a policy into a file."""
    from safetensors.numpy import save_file

    tensors = {
        f"layers.{number}.{name}": np.ascontiguousarray(part)
        for number, layer in enumerate(heads.layers)
        for name, part in layer._asdict().items()
        if part is not None
    }
    said = {name: getattr(heads, name) for name in ("kind", "reads", "activation", "digest")}
    said |= {"policy": policy}
    save_file(tensors, file, {"retaining_heads": json.dumps(said)})


def read_heads(folder: Path, policy: str) -> RetainingHeads:
    """Read the heads of a policy that a model folder carries.

    Raises:
        SettingsError: It carries none.
        CheckpointError: They belong to other weights, are damaged, or of a newer version.
    """
    file = folder / file_name(policy)
    manifest = read_manifest(folder) if folder.is_dir() else None
    entries = () if manifest is None else manifest.side_files
    entry = next((one for one in entries if one.path == file.name), None)
    if entry is None or not file.is_file():
        mend = f"train them (treadle sparsify {policy} '{folder}' OUT --text FILE.txt) and load OUT"
        if not folder.is_dir():
            mend = "they travel beside a model's folder, which a file has not; load the folder"
        raise SettingsError(
            f"keep='{policy}' needs trained heads, and '{folder}' has no {file.name}; {mend}."
        )
    _require_own(folder, entry)
    try:
        return _read(file, policy)
    except Exception as error:  # safetensors raises its own, json and numpy theirs
        raise CheckpointError(
            f"'{file}' is damaged ({type(error).__name__}: {str(error).splitlines()[0]}); copy it "
            f"again, or train the heads again (treadle sparsify {policy})."
        ) from error


def _require_own(folder: Path, entry: SideFile) -> None:
    """Refuse heads of a newer form, or of other weights than the folder's."""
    known = KINDS[KIND].version
    if entry.version > known:
        raise CheckpointError(
            f"'{folder / entry.path}' is of version {entry.version}, and this treadle reads "
            f"{known}; use the version that made it."
        )
    if entry.base_hash != content_hash(folder):
        raise CheckpointError(
            f"'{folder / entry.path}' was trained on other weights ({entry.base_hash[:12]}) than "
            f"those of its folder ({content_hash(folder)[:12]}); train the heads on this model "
            f"(treadle sparsify)."
        )


def _read(file: Path, policy: str) -> RetainingHeads:
    from safetensors import safe_open

    with safe_open(file, "np") as opened:
        said = json.loads(opened.metadata()["retaining_heads"])
        found: dict[int, dict[str, np.ndarray]] = {}
        for name in opened.keys():  # noqa: SIM118  # not a mapping
            _, number, part = name.split(".")
            found.setdefault(int(number), {})[part] = opened.get_tensor(name)
    layers = tuple(LayerHeads(**found[number]) for number in range(len(found)))
    kind, reads, activation = said["kind"], said["reads"], said["activation"]
    if kind not in _KINDS or reads not in _READS or activation not in _ACTIVATIONS:
        raise ValueError(f"it says {said}")
    if said["policy"] != policy:
        raise ValueError(f"it holds heads of '{said['policy']}'")
    heads = RetainingHeads(kind, reads, activation, layers)
    if heads.digest != said["digest"]:
        raise ValueError("its numbers are not those that were written")
    return heads
