"""Ids of documents that have none: the same wherever a document lies."""

__all__ = ["UNNAMED", "name_of_text"]

UNNAMED = "xxh3:"
"""What such ids begin with."""


def name_of_text(text: bytes | memoryview) -> str:
    """Return the id of a document: xxh3_128 of its text.

    Equal documents get equal ids; whoever sees all of them tells them apart.
    """
    from xxhash import xxh3_128_hexdigest

    return f"{UNNAMED}{xxh3_128_hexdigest(text)}"
