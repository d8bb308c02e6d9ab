"""A policy with its budget: when entries of a text go, how many stay, and what that takes."""

import math
from collections.abc import Mapping
from numbers import Integral
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from treadle.core.errors import SettingsError
from treadle.runtime.evict.base import Cached, Eviction
from treadle.runtime.evict.tables import EVICTIONS
from treadle.runtime.typed import number, require, whole

if TYPE_CHECKING:
    from treadle.runtime.cache.entries import HeadEntries
    from treadle.runtime.cache.pages import KeyValues

__all__ = ["Keeping", "choose_keeping"]


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

    def drops_within(self, num_tokens: int) -> bool:
        """Whether a prompt of so many tokens loses entries before its last token is computed."""
        chunk = self.method.chunk_tokens
        ends = range(chunk, num_tokens, chunk)
        return any(end > self.entries(end, num_tokens) for end in ends)

    def drop(
        self, entries: "HeadEntries", num_tokens: int, num_prompt: int, store: "KeyValues"
    ) -> bool:
        """Let entries go where a chunk has just ended and there are more than the budget.

        Says whether any went.
        """
        budget = self.entries(num_tokens, num_prompt)
        if num_tokens % self.method.chunk_tokens or entries.longest <= budget:
            return False
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
        return True

    def to_dict(self) -> dict[str, Any]:  # Any: JSON values
        """Return plain values, from which `from_dict` builds the same again."""
        return {"method": self.method.settings(), "budget": self.budget}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Keeping":  # Any: JSON values
        """Build from what `to_dict` returned."""
        method = EVICTIONS.resolve(values["method"])
        return cls(method, _budget(method, values["budget"]))


def choose_keeping(
    keep: Eviction | str | Mapping[str, Any] | None,  # Any: a method's settings
    budget: int | float | None,
) -> Keeping | None:
    """Return a policy with its budget, or None where neither is given.

    Args:
        keep: Its name, a mapping of the key `method` and its settings, or the policy itself.
        budget: Entries of each layer and KV head, or a fraction of the text (a float up to 1).

    Raises:
        SettingsError: There is no such policy, or the budget is no budget for it.
    """
    if keep is None:
        without = "keep beside it: which entries stay"
        require(budget is None, "keep_budget", budget, without)
        return None
    is_policy = isinstance(keep, Eviction | str | Mapping)
    require(is_policy, "keep", keep, f"an eviction policy ({', '.join(EVICTIONS.table)})")
    method = EVICTIONS.resolve(keep)
    if budget is None:
        raise SettingsError(
            f"keep='{method.name}' needs a keep_budget: entries of each layer and KV head (256), "
            f"or a fraction of the text (0.25); give it."
        )
    return Keeping(method, _budget(method, budget))


def _budget(method: Eviction, budget: object) -> int | float:
    """Return a budget that `method` can keep to."""
    if isinstance(budget, Integral) and not isinstance(budget, bool):
        return whole("keep_budget", budget, method.least_budget)
    found = number("keep_budget", budget)
    is_fraction = 0 < found <= 1
    require(is_fraction, "keep_budget", budget, "entries, or a fraction above 0 and at most 1.0")
    return found
