"""A policy with its budget: when entries of a text go, how many stay, and what that takes."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from treadle.core.errors import SettingsError
from treadle.core.registry import near
from treadle.runtime.entries import HeadEntries
from treadle.runtime.evict.base import Cached, Eviction
from treadle.runtime.evict.tables import EVICTIONS
from treadle.runtime.pages import KeyValues
from treadle.runtime.typed import require

__all__ = ["Keeping", "make_keeping"]


class Keeping(NamedTuple):
    """What a request keeps of its cache.

    A fraction counts of the whole prompt while it is read, whose length is known before, and of the
    text so far once that is longer.
    """

    method: Eviction
    budget: int | float
    """Entries of a head on average, or a fraction (a float) of the text."""

    def entries(self, num_tokens: int, num_prompt: int) -> int:
        """Return the budget after `num_tokens` tokens of a text, in entries of a head."""
        if isinstance(self.budget, int):
            return self.budget
        own = math.ceil(self.budget * max(num_tokens, num_prompt) - 1e-9)
        return max(own, self.method.least_budget)

    def num_pages(self, num_tokens: int, num_prompt: int, page_size: int) -> int:
        """Return how many pages a text takes at most until it has `num_tokens` tokens."""
        whole = -(-num_tokens // page_size)
        most = self.entries(num_tokens, num_prompt) + self.method.chunk_tokens
        # One page more: each head may have a plane that is not full.
        return min(whole, -(-most // page_size) + 1)

    def rows_left(self, num_computed: int) -> int:
        """Return how many rows may run before entries go."""
        chunk = self.method.chunk_tokens
        return chunk - num_computed % chunk

    def drop(
        self, entries: HeadEntries, num_tokens: int, num_prompt: int, store: KeyValues
    ) -> None:
        """Let entries go where a chunk has just ended and there are more than the budget."""
        budget = self.entries(num_tokens, num_prompt)
        if num_tokens % self.method.chunk_tokens or entries.longest <= budget:
            return
        cached = Cached(entries.positions(store), store.kv_heads, num_tokens)
        is_kept = np.asarray(self.method.keep(cached, budget), np.bool_)
        kept, most = int((is_kept & (cached.positions >= 0)).sum()), budget * store.num_heads
        is_right = is_kept.shape == cached.positions.shape and kept <= most
        if not is_right:
            raise SettingsError(
                f"The eviction policy '{self.method.name}' kept {kept} entries in an array of "
                f"shape {is_kept.shape}, expected at most {most} in one of shape "
                f"{cached.positions.shape}; mend its keep()."
            )
        entries.keep(is_kept, store)

    def to_dict(self) -> dict[str, Any]:  # Any: JSON values
        """Return plain values, from which `from_dict` builds the same again."""
        return {"method": self.method.settings(), "budget": self.budget}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Keeping":  # Any: JSON values
        """Build from what `to_dict` returned."""
        return make_keeping(values["method"], values["budget"])


def make_keeping(
    keep: Eviction | str | Mapping[str, Any],  # Any: a method's settings
    budget: int | float | None,
) -> Keeping:
    """Return a policy with its budget.

    Args:
        keep: Its name, a mapping of the key `method` and its settings, or the policy itself.
        budget: Entries of each layer and KV head, or a fraction of the text (a float up to 1).

    Raises:
        SettingsError: There is no such policy, or the budget is no budget for it.
    """
    is_policy = isinstance(keep, Eviction | str | Mapping)
    require(is_policy, "keep", keep, f"the name of an eviction policy. {near('', EVICTIONS.table)}")
    method = EVICTIONS.resolve(keep)
    if budget is None:
        raise SettingsError(
            f"keep='{method.name}' needs keep_budget: entries of each layer and KV head, or a "
            f"fraction of the text; give it."
        )
    is_number = isinstance(budget, int | float | np.integer | np.floating)
    require(
        is_number and not isinstance(budget, bool),
        *("keep_budget", budget, "entries (a whole number) or a fraction (0.25)"),
    )
    if isinstance(budget, int | np.integer):
        least = method.least_budget
        require(budget >= least, "keep_budget", budget, f"at least {least} for '{method.name}'")
        return Keeping(method, int(budget))
    expected = "a fraction above 0 and at most 1, or a whole number of entries"
    require(0 < budget <= 1, "keep_budget", budget, expected)
    return Keeping(method, float(budget))
