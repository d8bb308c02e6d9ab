"""Which models the native step was seen to compute rightly: comparing takes long for large ones."""

import hashlib
import json
import logging
from pathlib import Path

from treadle.core.cache import cache_folder, locked
from treadle.native.loader import library

__all__ = ["is_known", "remember", "sign"]

_MOST = 200
logger = logging.getLogger(__name__)


def sign(path: Path, form: str) -> str:
    """Return a name for what was compared: the files as they are now, the form, the kernel."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    states = [
        (file.name, stat.st_size, stat.st_mtime_ns) for file in files for stat in [file.stat()]
    ]
    kernel = library("step")
    parts = [str(path.absolute()), states, form, None if kernel is None else kernel._name]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def is_known(signature: str) -> bool:
    """Say whether a comparison of that name was passed before."""
    return signature in _load()


def remember(signature: str) -> None:
    """Note a comparison that was passed; the oldest ones are forgotten."""
    file = _file()
    try:
        with locked(file.with_suffix(".lock")):
            passed = [name for name in _load() if name != signature] + [signature]
            fresh = file.with_suffix(".new")
            fresh.write_text(json.dumps(passed[-_MOST:], indent=1))
            fresh.replace(file)
    except OSError as error:
        logger.warning("Cannot remember what was compared (%s); set TREADLE_CACHE.", error)


def _file() -> Path:
    return cache_folder() / "agreements.json"


def _load() -> list[str]:
    try:
        passed = json.loads(_file().read_text())
    except (OSError, ValueError):
        return []
    return passed if isinstance(passed, list) else []
