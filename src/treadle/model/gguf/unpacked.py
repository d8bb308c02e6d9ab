"""The folder of a GGUF file, made once in the cache: for verbs that read and write folders."""

import hashlib
import logging
from pathlib import Path

from treadle.core.cache import cache_folder
from treadle.core.checkpoint import Parent, Provenance
from treadle.core.checkpoint.seen import seen_hash
from treadle.core.claim import claimed
from treadle.core.errors import CapacityError, SettingsError
from treadle.model.gguf.file import part_paths
from treadle.model.gguf.folder import write_folder
from treadle.model.source import source_hash

__all__ = ["unpacked"]

logger = logging.getLogger(__name__)
_CONVERSION = 1
"""Counts up when the conversion changes, so that an old folder is not taken for the new one."""


def unpacked(file: Path) -> Path:
    """Return the folder of a GGUF file in float16, making it on the first call.

    It takes some 4 times the file's bytes in the cache folder; processes that race wait for the one
    that makes it. The file is hashed, so that another one of the same name is another folder.

    Raises:
        CheckpointError: The file is damaged.
        UnsupportedModelError: Something of it is not read.
        CapacityError: The cache's disk is full, or its folder cannot be written.
    """
    content = [entry for part in part_paths(file) for entry in seen_hash(part)]
    digest = hashlib.sha256(f"{content} {_CONVERSION}".encode()).hexdigest()[:16]
    folder = cache_folder() / "models" / f"{file.stem}-{digest}"
    if not folder.is_dir():
        logger.warning("'%s' is unpacked once, as floats of 16 bits, into '%s'.", file, folder)
        try:
            _make(file, folder)
        except (OSError, CapacityError, SettingsError) as error:
            raise CapacityError(
                f"'{file}' cannot be unpacked into '{folder.parent}' ({error}); let TREADLE_CACHE "
                f"name a folder with room, or run treadle export '{file}' OUT and give OUT."
            ) from error
    return folder


def _make(file: Path, folder: Path) -> None:
    with claimed(folder, is_whole=True, waits=True):
        if folder.is_dir():
            return
        parent = Parent(name=file.name, content_hash=source_hash(file))
        provenance = Provenance(verb="export", settings={}, parents=(parent,))
        found = write_folder(file, folder, provenance, card_summary=f"Unpacked from {file.name}.")
        if found.no_tokenizer:
            logger.warning("'%s' has no tokenizer: %s.", folder, found.no_tokenizer.rstrip("."))
