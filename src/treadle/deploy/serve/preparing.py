"""Work before an answer waits for its turn: templates, tokens, forms - off the event loop.

Long texts have a thread of their own, so that short ones never wait for them; and of each client
one text at a time is read, so that nobody's many texts hold up another's one.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["Preparing", "Wanted"]

T = TypeVar("T")
_LONG = 1 << 16
"""Characters from which a text counts as long: some 20 ms of a tokenizer."""


class Wanted:
    """Whether somebody still waits for what comes of work."""

    def __init__(self) -> None:
        self._is_over = threading.Event()

    def end(self) -> None:
        """Note that nobody does."""
        self._is_over.set()

    def __bool__(self) -> bool:
        return not self._is_over.is_set()


class Preparing:
    """Two threads, and who may use them."""

    def __init__(self) -> None:
        self._pools = {
            is_long: ThreadPoolExecutor(1, f"treadle-prepare-{'long' if is_long else 'short'}")
            for is_long in (False, True)
        }
        self._turns: dict[tuple[str, bool], asyncio.Lock] = {}
        self._num_inside: dict[tuple[str, bool], int] = {}

    async def run(self, client: str, num_characters: int, work: Callable[[Wanted], T]) -> T:
        """Run work of one client; what has not begun when it is cancelled never does."""
        place = (client, num_characters >= _LONG)
        self._num_inside[place] = self._num_inside.get(place, 0) + 1
        try:
            async with self._turns.setdefault(place, asyncio.Lock()):
                return await self._run(place[1], work)
        finally:
            self._num_inside[place] -= 1
            if not self._num_inside[place]:
                del self._num_inside[place], self._turns[place]

    async def _run(self, is_long: bool, work: Callable[[Wanted], T]) -> T:
        wanted = Wanted()
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pools[is_long], work, wanted)
        finally:
            wanted.end()

    def close(self) -> None:
        """Let go of the threads; what has not begun never does."""
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
