"""What documents are before they are read: a source, cut into units; lines that were parsed."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Kind", "LineParser", "ParsedLines", "Source", "Unit"]

Kind = Literal["lines", "gzip", "zstd", "parquet", "warc", "files"]


class Unit(NamedTuple):
    """A run of documents that one worker reads."""

    number: int
    kind: Kind
    name: str
    """The file's path inside the source."""
    files: tuple[Path, ...]
    start: int
    """First byte of lines, or the row group of a Parquet file."""
    stop: int
    first_row: int
    partition: tuple[tuple[str, str | None], ...] = ()
    """Columns that the path says, as in lang=en/part-0.parquet."""

    @property
    def is_sequential(self) -> bool:
        """Whether a document can only be reached through all that stand before it."""
        return self.kind in ("gzip", "zstd", "warc")


class ParsedLines(NamedTuple):
    """Some lines of JSON: what line i says ends where `ends` has it, in each of three buffers."""

    texts: npt.NDArray[np.uint8]
    ids: npt.NDArray[np.uint8]
    rests: npt.NDArray[np.uint8]
    """What else an object says, as it is written and unchecked; nothing if there is nothing."""
    ends: npt.NDArray[np.int64]
    """Of texts, ids and rests: [3, lines]."""
    is_named: npt.NDArray[np.bool_]
    """Whether the line has an id."""
    kinds: npt.NDArray[np.uint8]
    """0 for a document, 1 for a blank line, 2 for a text of white space."""
    num_bytes: int
    """How many bytes were read."""


LineParser = Callable[[npt.NDArray[np.uint8], str, str], ParsedLines | None]
"""From lines and the names of text and id to what they say, or None where Python has to look."""


class Source(NamedTuple):
    """Documents, still unread."""

    path: Path
    units: tuple[Unit, ...]
    content_hash: str
    num_bytes: int
    text_column: str
    id_column: str
    schema: "pa.Schema"
    """Of the documents: id, text, then what else the source has."""
    notes: tuple[str, ...]
    parser: LineParser | None
    roots: tuple[Path, ...]
    """The files and folders that are read as one; `path` names all of them."""
