"""What lies where a sweep's inputs are, as a digest: a cell counts for these bytes alone."""

from pathlib import Path

from treadle.core.checkpoint.hashing import content_hash, file_hash
from treadle.core.checkpoint.reader import weight_files
from treadle.core.errors import CheckpointError, DataError
from treadle.core.result import RESULT_FILE, digest

__all__ = ["Contents"]

_JOINED = " + "
_ACCOUNTS = (RESULT_FILE, "README.md")
"""Files that tell how a folder was made, and when: the same folder made again differs in them."""


class Contents:
    """Digests of files and folders, each read once."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def digest(self, place: str) -> str:
        """Return the digest of what lies at `place`, or the text itself where nothing lies there.

        Of a model's weights it is the content hash, which the cache remembers; of everything else
        every byte is read. Sources joined by " + " count each.

        Raises:
            DataError: Something there cannot be read.
        """
        if place not in self._known:
            self._known[place] = self._read(place)
        return self._known[place]

    def _read(self, place: str) -> str:
        path = Path(place)
        try:
            if place and path.exists():
                return _digest(path)
        except OSError as error:
            raise DataError(
                f"'{place}' cannot be read ({error}); a cell counts for the bytes of its "
                f"inputs, so make them readable."
            ) from error
        parts = place.split(_JOINED)
        found = [self.digest(part) for part in parts] if len(parts) > 1 else parts
        return place if found == parts else digest(found)


def _digest(path: Path) -> str:
    if path.is_file():
        return file_hash(path)
    files = sorted(file for file in path.rglob("*") if file.is_file() and _counts(file, path))
    weights = _weights(path)
    entries = [
        [str(file.relative_to(path)), file_hash(file)] for file in files if file not in weights
    ]
    return digest([content_hash(path) if weights else "", entries])


def _counts(file: Path, folder: Path) -> bool:
    parts = file.relative_to(folder).parts
    return file.name not in _ACCOUNTS and not any(part.startswith(".") for part in parts)


def _weights(folder: Path) -> set[Path]:
    """Return the files of a model's weights; none where the folder is no model."""
    if not (folder / "config.json").is_file():
        return set()
    try:
        return set(weight_files(folder))
    except CheckpointError:
        return set()
