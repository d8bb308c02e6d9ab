"""Python's garbage collector, kept from looking through what is being loaded."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["collecting_later"]


@contextmanager
def collecting_later() -> Iterator[None]:
    """Let no garbage be collected inside: for work that makes many objects, all of which stay.

    Importing torch and transformers makes half a million objects, which the collector would go
    through again and again: a fifth of the processor time of loading a small model.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
