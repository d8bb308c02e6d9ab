"""Compressed files, unpacked as they are read: any number of members, windows of any size."""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from treadle.core.errors import CapacityError, DataError

__all__ = ["opened", "unpacked"]

_CHUNK_BYTES = 1 << 20
_COMPRESSED_BYTES = 64 << 10
_WINDOW_BYTES = 1 << 31
"""The longest window of zstd (--long=31); it takes memory only where a frame asks for it."""

_USUAL_WINDOW_BYTES = 128 << 20
_HEADER_BYTES = 18


def unpacked(file: Path) -> Iterator[bytes]:
    """Yield the content of a gzip or zstd file (by its name), some of it at a time.

    Raises:
        DataError: It is damaged.
        CapacityError: A frame asks for more memory than there is.
    """
    import zstandard

    try:
        with file.open("rb") as raw:
            yield from _of_gzip(raw) if file.name.lower().endswith("gz") else _of_zstd(raw)
    except (EOFError, OSError, zlib.error, zstandard.ZstdError) as error:
        if "not enough memory" in str(error):
            raise CapacityError(
                f"'{file}' was packed with a window for which there is no memory ({error}); free "
                f"some, or pack it again without zstd's --long."
            ) from error
        raise DataError(
            f"'{file}' is damaged: {error}. Fetch the file again, or move it out of the source."
        ) from error


def _of_gzip(raw: IO[bytes]) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=raw) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            yield chunk


def _of_zstd(raw: IO[bytes]) -> Iterator[bytes]:
    """Decode frame after frame; zstandard's own stream takes a cut file for a whole one."""
    import zstandard

    decoders = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES)
    decoder, is_inside = decoders.decompressobj(), False
    while chunk := raw.read(_COMPRESSED_BYTES):
        while chunk:
            is_inside = True
            yield decoder.decompress(chunk)
            chunk = decoder.unused_data if decoder.eof else b""
            if decoder.eof:
                decoder, is_inside = decoders.decompressobj(), False
    if is_inside:
        raise EOFError("it ends in the middle of a frame")


@contextmanager
def opened(file: Path) -> Iterator[IO[bytes]]:
    """Open a file whose reader unpacks it: as it is, or unpacked on disk if its window is long.

    Raises:
        DataError: It is damaged.
        CapacityError: There is no memory for its window.
    """
    with file.open("rb") as raw:
        if _window_bytes(raw.read(_HEADER_BYTES)) <= _USUAL_WINDOW_BYTES:
            raw.seek(0)
            yield raw
            return
    with TemporaryFile() as whole:
        whole.writelines(unpacked(file))
        whole.seek(0)
        yield whole


def _window_bytes(head: bytes) -> int:
    import zstandard

    try:
        return zstandard.get_frame_parameters(head).window_size
    except zstandard.ZstdError:  # no zstd, or damaged: the reader says so
        return 0
