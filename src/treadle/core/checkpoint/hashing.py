"""The content hash: a name for a model's numbers that no sharding, file name or date changes."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from treadle.core.cache import cache_folder, locked
from treadle.core.checkpoint.described import says_bundle
from treadle.core.checkpoint.manifest import read_manifest
from treadle.core.checkpoint.reader import CheckpointReader, weight_files
from treadle.core.codec import Array, dtype_code
from treadle.core.errors import CheckpointError

__all__ = ["content_hash", "file_hash", "hash_tensors", "remember_hash"]

_NUM_THREADS = 2
_CHUNK_BYTES = 16 << 20

logger = logging.getLogger(__name__)


def content_hash(source: CheckpointReader | Path) -> str:
    """Return sha256 over the sorted (name, dtype, shape, sha256 of the bytes) of all tensors.

    The result is remembered in the cache folder until the weight files change. A folder whose
    weights were removed answers with the hash in its treadle.json.

    Raises:
        CheckpointError: the folder has neither sound weights nor a treadle.json.
    """
    folder = source.folder if isinstance(source, CheckpointReader) else Path(source)
    if says_bundle(folder):
        from treadle.core.checkpoint.routed import bundle_hash  # it hashes its models by this

        return bundle_hash(folder)
    try:
        signature = _sign(folder)
    except CheckpointError:
        manifest = read_manifest(folder)
        if manifest is None:
            raise
        return manifest.content_hash
    remembered = _load().get(str(folder.absolute()), {})
    if remembered.get("files") == signature:
        return str(remembered["hash"])
    if isinstance(source, CheckpointReader):
        digest = hash_tensors(source.tensors, source.array, source.release)
    else:
        with CheckpointReader(folder) as reader:
            digest = hash_tensors(reader.tensors, reader.array, reader.release)
    remember_hash(folder, digest)
    return digest


def file_hash(file: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_tensors(
    names: Iterable[str], read: Callable[[str], Array], release: Callable[[str], None]
) -> str:
    """Return the content hash of named arrays, in whatever order they come.

    Each is read in a thread, and released when it was hashed: a model of any size passes through.
    """

    def describe(name: str) -> str:
        line = _describe(name, read(name))
        release(name)
        return line

    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        lines = sorted(pool.map(describe, names))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def remember_hash(folder: Path, digest: str) -> None:
    """Note the hash of a folder's present weight files in the cache."""
    file = _cache_file()
    try:
        with locked(file.with_suffix(".lock")):
            hashes = {path: entry for path, entry in _load().items() if Path(path).is_dir()}
            hashes[str(folder.absolute())] = {"files": _sign(folder), "hash": digest}
            fresh = file.with_suffix(".new")
            fresh.write_text(json.dumps(hashes))
            fresh.replace(file)
    except OSError as error:
        logger.warning("Cannot remember content hashes (%s); set TREADLE_CACHE to a folder.", error)


def _describe(name: str, array: Array) -> str:
    digest = hashlib.sha256()
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    for first in range(0, flat.size, _CHUNK_BYTES):
        digest.update(flat[first : first + _CHUNK_BYTES].data)
    return json.dumps([name, dtype_code(array.dtype), list(array.shape), digest.hexdigest()])


def _sign(folder: Path) -> list[list[Any]]:
    stats = [(file.name, os.stat(file)) for file in weight_files(folder)]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]


def _cache_file() -> Path:
    return cache_folder() / "content_hashes.json"


def _load() -> dict[str, Any]:
    try:
        hashes = json.loads(_cache_file().read_text())
    except (OSError, ValueError):
        return {}
    return hashes if isinstance(hashes, dict) else {}
