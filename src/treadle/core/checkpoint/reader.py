"""Opening a Hugging Face folder by its headers, and viewing its tensors without copies."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np

from treadle.core.checkpoint.described import ROUTED, read_config, read_object, refuse_bundle
from treadle.core.checkpoint.header import MappedFiles, TensorInfo, read_header
from treadle.core.codec import FLOATS, Array, as_torch, dtype_code
from treadle.core.errors import CheckpointError
from treadle.core.mistaken import pointed

if TYPE_CHECKING:
    import torch

__all__ = [
    "EMBEDDINGS",
    "INDEX_FILE",
    "SINGLE_FILE",
    "CheckpointReader",
    "require_finite",
    "weight_files",
]

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_GENERATION_FILE = "generation_config.json"

_CHUNK_ELEMENTS = 4 << 20
_HEAD = "lm_head.weight"
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
"""How the names of token embeddings end."""
# Classes with a head; transformers leaves `tie_word_embeddings: true` out of some configs.
_WITH_HEAD = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


class CheckpointReader:
    """A model folder, opened by its headers only; tensors are views over the mapped files.

    Attributes:
        folder: The folder.
        config: The parsed config.json.
        tensors: Tensor name -> where it lies, in the order on disk.

    Raises:
        CheckpointError: the folder or one of its files is missing, damaged or inconsistent.
        UnsupportedModelError: It is a bundle of several models.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise CheckpointError(
                f"There is no model folder {self.folder}; check the path, or download the model "
                "first."
            )
        config_file = self.folder / "config.json"
        if not config_file.is_file():
            _refuse_adapter(self.folder)
            raise CheckpointError(
                f"{self.folder} has no config.json, so it is not a Hugging Face model folder; give "
                "the folder that holds config.json and the weights."
            )
        self.config = read_config(config_file)
        if self.config.get("model_type") == ROUTED:
            refuse_bundle(self.folder)
        if (generation := self.folder / _GENERATION_FILE).exists():
            read_object(generation)  # goes along as it is, and no loader takes a damaged one
        self.tensors = _read_tensors(self.folder)
        self._files = MappedFiles()

    @property
    def num_bytes(self) -> int:
        """The bytes of all tensors, each counted once."""
        return sum(info.num_bytes for info in self.tensors.values())

    @cached_property
    def tied(self) -> dict[str, str]:
        """Alias -> source: a tied head that is absent, or equal to the embedding."""
        sources = [name for name in self.tensors if name.endswith(EMBEDDINGS)]
        stored = [name for name in self.tensors if name.endswith(_HEAD)]
        if len(sources) != 1 or len(stored) > 1 or not self._says_tied(bool(stored)):
            return {}
        if stored and not self._are_equal(stored[0], sources[0]):
            return {}
        return {stored[0] if stored else _HEAD: sources[0]}

    def array(self, name: str) -> Array:
        """Return a read-only view of a tensor (or of what a tied name stands for)."""
        view = self._view(name)
        view.flags.writeable = False
        return view

    def tensor(self, name: str, dtype: "torch.dtype | None" = None) -> "torch.Tensor":
        """Return a torch tensor: a view, or a copy where `dtype` is not the stored one.

        Writing to the view changes memory only, never the file; still, clone it first.
        """
        tensor = as_torch(self._view(name))
        return tensor if dtype is None else tensor.to(dtype)

    def read_range(self, name: str, first_element: int, num_elements: int) -> Array:
        """Return a read-only flat view of a run of elements of a tensor."""
        return self.array(name).reshape(-1)[first_element : first_element + num_elements]

    def release(self, name: str) -> None:
        """Let the pages of a tensor leave memory; its views stay valid and read the file again.

        What was written to a view by mistake is undone.
        """
        self._files.release(self.tensors[self.tied.get(name, name)])

    def close(self) -> None:
        """Let go of the mapped files; each is unmapped when its last view is gone."""
        self._files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _view(self, name: str) -> Array:
        if name not in self.tensors and name not in self.tied:
            raise CheckpointError(
                f"{self.folder} has no tensor {name!r} among its {len(self.tensors)}; check the "
                "architecture, or list the names with CheckpointReader(folder).tensors."
            )
        return self._files.view(self.tensors[name if name in self.tensors else self.tied[name]])

    def _says_tied(self, has_head: bool) -> bool:
        config = self.config.get("treadle_base") or self.config  # of blocks that differ in width
        text_config = config.get("text_config") or {}
        said = config.get("tie_word_embeddings", text_config.get("tie_word_embeddings"))
        if said is None:
            architectures = config.get("architectures") or [""]
            return not has_head and str(architectures[0]).endswith(_WITH_HEAD)
        return bool(said or text_config.get("tie_word_embeddings"))

    def _are_equal(self, left: str, right: str) -> bool:
        if self.tensors[left][1:3] != self.tensors[right][1:3]:
            return False
        pair = [self.array(name).reshape(-1).view(np.uint8) for name in (left, right)]
        return all(np.array_equal(*chunks) for chunks in zip(*map(_chunks, pair), strict=True))


def _refuse_adapter(folder: Path) -> None:
    if (folder / "adapter_config.json").is_file():
        raise CheckpointError(
            f"'{folder}' is an adapter; give the model that it was trained on, and the adapter "
            f"beside it: --adapter {folder} (treadle evaluate), LLM(..., adapters={{NAME: "
            f"FOLDER}}), or MODEL+{folder} (treadle merge)."
        )


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a folder, without the proof that they are sound.

    Raises:
        CheckpointError: the folder names no weights, or names files that are missing.
    """
    if (single := folder / SINGLE_FILE).is_file():
        return [single]
    return sorted({folder / shard for shard in _weight_map(folder).values()})


def require_finite(name: str, array: Array, file: Path | None = None) -> None:
    """Check that no element is NaN or infinite, in chunks, so that memory stays small.

    Raises:
        CheckpointError: an element is not finite.
    """
    if dtype_code(array.dtype) not in FLOATS:
        return
    first_element = 0
    for chunk in _chunks(array.reshape(-1)):
        with np.errstate(invalid="ignore"):  # a signalling NaN is found, not warned about
            finite = np.isfinite(chunk)
        if not finite.all():
            position = int(np.argmin(finite))
            place = f" in {file}" if file else ""
            raise CheckpointError(
                f"Tensor {name!r}{place} holds {float(chunk[position])} at element "
                f"{first_element + position}, but finite numbers were expected; repair or retrain "
                "the model, or leave it out."
            )
        first_element += chunk.size


def _chunks(flat: Array) -> Iterator[Array]:
    for first in range(0, flat.size, _CHUNK_ELEMENTS):
        yield flat[first : first + _CHUNK_ELEMENTS]


def _read_tensors(folder: Path) -> dict[str, TensorInfo]:
    if (single := folder / SINGLE_FILE).is_file():
        return {info.name: info for info in read_header(single)}
    weight_map = _weight_map(folder)
    tensors = {
        info.name: info
        for file in weight_files(folder)
        for info in read_header(file)
        if weight_map.get(info.name, file.name) == file.name
    }
    for name, shard in weight_map.items():
        if name not in tensors:
            raise CheckpointError(
                f"Tensor {name!r} is missing from {folder / shard}, though {INDEX_FILE} places it "
                "there; copy or download that shard again."
            )
    return tensors


def _weight_map(folder: Path) -> dict[str, str]:
    index = folder / INDEX_FILE
    if not index.is_file():
        raise CheckpointError(_explain_missing_weights(folder))
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{index} has no weight_map; copy or download it again.")
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or Path(shard).is_absolute() or ".." in Path(shard).parts:
            raise CheckpointError(
                f"{index} places tensor {name!r} in {shard!r}, but the name of a file in the "
                f"folder was expected; copy or download it again."
            )
    for shard in sorted(set(weight_map.values())):
        if not (folder / shard).is_file():
            raise CheckpointError(
                f"{index} names the shard {shard}, but {folder / shard} does not exist; copy or "
                "download that file into the folder."
            )
    return weight_map


def _explain_missing_weights(folder: Path) -> str:
    expected = f"{folder} has neither {SINGLE_FILE} nor {INDEX_FILE}"
    pickles = sorted(file.name for file in folder.glob("*.bin"))
    if pickles and (what := pointed(folder / pickles[0])):
        return f"{expected}, and {pickles[0]} is {what}."
    if pickles:
        return (
            f"{expected}, only PyTorch's {pickles[0]}, which can run code when it is opened; "
            "convert it with transformers: "
            "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(OUT)."
        )
    return f"{expected}; copy the weights into the folder, as safetensors."
