"""One share of the measuring, for schedulers that start many equal jobs."""

import re
from typing import NamedTuple

from treadle.core.errors import SettingsError

__all__ = ["Shard", "read_shard"]


class Shard(NamedTuple):
    """Share `number` (from 1) of so many."""

    number: int
    of: int

    def takes(self, unit: int) -> bool:
        """Say whether a unit is in the share."""
        return unit % self.of == self.number - 1


def read_shard(text: str | None) -> Shard | None:
    """Return the share that `text` names, as in "3/16"; None for None.

    Raises:
        SettingsError: It names none.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    shard = Shard(*map(int, found.groups())) if found else Shard(0, 0)
    if not 1 <= shard.number <= shard.of:
        raise SettingsError(
            f"shard = '{text}' is no share; write i/n with i from 1 to n, as in 3/16."
        )
    return shard
