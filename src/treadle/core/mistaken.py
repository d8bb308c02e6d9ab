"""What a file is that is not what its name says: a pointer, a page of the web, another format."""

from pathlib import Path

__all__ = ["mistaken", "pointed"]

_START_BYTES = 512
_POINTERS = (
    b"version https://git-lfs.github.com/spec/",
    b"version https://hawser.github.com/spec/",
)
_PAGES = (b"<!doctype html", b"<html", b"<?xml", b"<head")
_FORMATS = (
    (b"GGUF", "a GGUF file"),
    (b"PK\x03\x04", "a zip archive, as PyTorch's pickles are"),
    (b"\x80\x02", "a Python pickle"),
    (b"\x80\x04", "a Python pickle"),
    (b"\x1f\x8b", "gzip-compressed"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed"),
    (b"PAR1", "a Parquet file"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
)


def mistaken(file: Path) -> str:
    """Return what a file is instead of what was looked for, and the mend; empty if nobody can say.

    It is asked where a file could not be read: of pointers, pages that a web server sent instead
    of it, and other formats.

    Args:
        file: The file; it may be gone by now.

    Returns:
        What follows "FILE is", such as "a Git LFS pointer, not the file; run git lfs pull".
    """
    start = _start(file)
    if start is None:
        return ""
    if what := _pointed(start):
        return what
    if _words(start).lower().startswith(_PAGES):
        return (
            "a page of the web, not the file; download it again, logged in where its repository "
            "asks for it"
        )
    for magic, what in _FORMATS:
        if start.startswith(magic):
            return f"{what} by its first bytes; give it its right name, or convert it"
    return "" if start else "empty; download it again"


def pointed(file: Path) -> str:
    """Return what `mistaken` says of a pointer that Git LFS, Xet or git-annex left; else nothing.

    It may be asked before a file is read: no text that anybody means begins like that.
    """
    return _pointed(_start(file) or b"")


def _pointed(start: bytes) -> str:
    text = _words(start)
    if text.startswith(_POINTERS):
        return (
            f"a Git LFS pointer, not the file{_said_size(text)} that it stands for; run git lfs "
            f"pull in the cloned repository, or download the file itself"
        )
    if len(start) < _START_BYTES and b"annex/objects/" in text and text.count(b"\n") <= 1:
        return "a git-annex pointer, not the file; run git annex get, or download the file itself"
    return ""


def _start(file: Path) -> bytes | None:
    try:
        with file.open("rb") as stream:
            return stream.read(_START_BYTES)
    except OSError:
        return None


def _words(start: bytes) -> bytes:
    return start.removeprefix(b"\xef\xbb\xbf").lstrip()


def _said_size(pointer: bytes) -> str:
    """Return how large a pointer says that its file is."""
    for line in pointer.splitlines():
        key, _, value = line.partition(b" ")
        if key == b"size" and value.isdigit():
            return f" of {int(value):,} bytes"
    return ""
