"""Bodies that come packed (Content-Encoding), unpacked piece by piece so that no bomb goes off."""

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from importlib.util import find_spec

from treadle.deploy.http.errors import ApiError

__all__ = ["unpacked"]

_PIECE_BYTES = 1 << 16
_MOST_WINDOW_BYTES = 1 << 23
"""What a packed body may ask of memory (zstd); RFC 9659 bounds it so for the web."""


def unpacked(body: bytes, coding: str) -> Iterator[bytes]:
    """Return the pieces of a body.

    Args:
        body: As it came.
        coding: The value of Content-Encoding: gzip, deflate, zstd (where zstandard is installed),
            or identity.

    Raises:
        ApiError: The coding is another one, or (while pieces are taken) the body is not packed so.
    """
    known = _codings()
    names = [name for part in coding.split(",") if (name := part.strip().lower()) != "identity"]
    if not names:
        return iter([body])
    if len(names) > 1 or names[0] not in known:
        raise ApiError(
            415,
            f"Found Content-Encoding '{coding[:80]}', expected one of {', '.join(known)}; send the "
            f"body in one of them, or as it is.",
            "unsupported_encoding",
            headers={"Accept-Encoding": ", ".join(known)},
        )
    return _taken(known[names[0]](body), names[0])


def _codings() -> dict[str, Callable[[bytes], Iterator[bytes]]]:
    found: dict[str, Callable[[bytes], Iterator[bytes]]] = {
        **dict.fromkeys(("gzip", "x-gzip"), _gzip),
        "deflate": _deflate,
    }
    if find_spec("zstandard"):
        found["zstd"] = _zstd
    return found


def _taken(pieces: Iterator[bytes], name: str) -> Iterator[bytes]:
    try:
        yield from pieces
    except (EOFError, ValueError, OSError, zlib.error) as error:
        raise ApiError(
            400,
            f"The body is not packed as its Content-Encoding '{name}' says ({error}); pack it "
            f"again, or send it as it is.",
            "invalid_encoding",
        ) from error


def _gzip(body: bytes) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=io.BytesIO(body)) as file:
        while piece := file.read(_PIECE_BYTES):
            yield piece


def _deflate(body: bytes) -> Iterator[bytes]:
    """Unpack zlib's form, or the bare one that some clients send under this name."""
    is_zlib = len(body) > 1 and body[0] & 15 == 8 and (body[0] << 8 | body[1]) % 31 == 0
    unpacker = zlib.decompressobj(zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS)
    while not unpacker.eof:
        piece = unpacker.decompress(body, _PIECE_BYTES)
        if not piece and not unpacker.eof:
            raise EOFError("it ends too early")
        yield piece
        body = unpacker.unconsumed_tail
    if unpacker.unused_data:
        raise ValueError("something stands behind its end")


def _zstd(body: bytes) -> Iterator[bytes]:
    import zstandard

    unpacker = zstandard.ZstdDecompressor(max_window_size=_MOST_WINDOW_BYTES)
    try:
        with unpacker.stream_reader(body, read_across_frames=True) as file:
            while piece := file.read(_PIECE_BYTES):
                yield piece
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error
