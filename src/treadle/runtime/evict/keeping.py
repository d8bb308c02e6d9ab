"""A policy with its budget: when entries of a text go, how many stay, and what that takes."""

import math
from collections.abc import Mapping
from numbers import Integral
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from treadle.core.errors import SettingsError
from treadle.runtime.cache.units import UNIT
from treadle.runtime.evict.base import Eviction
from treadle.runtime.evict.cached import Bools, Cached, Floats
from treadle.runtime.evict.choosing import choose
from treadle.runtime.evict.reading import TextSoFar, read_entries
from treadle.runtime.evict.tables import EVICTIONS
from treadle.runtime.executor import EntryNotes
from treadle.runtime.typed import number, require, whole

if TYPE_CHECKING:
    from treadle.runtime.cache.entries import HeadEntries
    from treadle.runtime.cache.pages import KeyValues

__all__ = ["Keeping", "choose_keeping", "least_budget"]


class Keeping(NamedTuple):
    """What a request keeps of its cache.

    A fraction counts of the whole prompt while it is read, whose length is known before, and of the
    text so far once that is longer.
    """

    method: Eviction
    budget: int | float | None
    """Entries of a head on average, or a fraction (a float) of the text; None: what reaches the
    threshold stays."""

    def entries(self, num_tokens: int, num_prompt: int) -> int | None:
        """Return the budget after `num_tokens` tokens of a text, in entries of a head."""
        if self.budget is None or isinstance(self.budget, int):
            return self.budget
        own = math.ceil(self.budget * max(num_tokens, num_prompt) - 1e-9)
        return max(own, least_budget(self.method))

    def num_pages(self, num_tokens: int, num_prompt: int, page_size: int) -> int:
        """Return how many pages a text takes at most until it has `num_tokens` tokens."""
        whole = -(-num_tokens // page_size)
        if self.method.packed_bits:
            return self._num_packed_pages(num_tokens, page_size)
        own = self.entries(num_tokens, num_prompt)
        if own is None:
            return whole
        # One page more: each head may have a plane that is not full.
        return min(whole, -(-(own + self.method.chunk_tokens) // page_size) + 1)

    def _num_packed_pages(self, num_tokens: int, page_size: int) -> int:
        """Return the same where older entries are packed, at most, in whatever planes are."""
        method = self.method
        units = max(0, num_tokens - method.sinks - method.window) // UNIT
        # What is not packed when a chunk ends, and until the next one does.
        most = method.sinks + method.window + UNIT - 1 + method.chunk_tokens
        # In planes of more than two bytes a number, units take fewer.
        return -(-min(num_tokens, most) // page_size) + units * (method.packed_bits + 1)

    def num_units(self, num_tokens: int) -> int:
        """Return how many units of a text's entries are packed after `num_tokens` tokens."""
        method, at_end = self.method, num_tokens - num_tokens % self.method.chunk_tokens
        if not method.packed_bits:
            return 0
        return max(0, at_end - method.sinks - method.window) // UNIT

    def next_end(self, num_computed: int, num_prompt: int) -> int:
        """Return after how many tokens entries go next."""
        chunk = self.method.chunk_tokens
        found = (num_computed // chunk + 1) * chunk
        own = self._prompt_end(num_prompt)
        return own if own is not None and num_computed < own < found else found

    def is_end(self, num_tokens: int, num_prompt: int) -> bool:
        """Whether entries go after so many tokens of a text."""
        is_chunk = num_tokens % self.method.chunk_tokens == 0
        return is_chunk or num_tokens == self._prompt_end(num_prompt)

    def _prompt_end(self, num_prompt: int) -> int | None:
        """Return after how many tokens of the prompt entries go once more, if they do."""
        local = self.method.local
        return None if local is None or local >= num_prompt else num_prompt - local

    def _is_last(self, num_tokens: int, num_prompt: int) -> bool:
        """Whether an eviction is the last one of the prompt."""
        own = self._prompt_end(num_prompt)
        if own is not None:
            return num_tokens == own
        chunk = self.method.chunk_tokens
        return num_tokens <= num_prompt < num_tokens + chunk

    def rows_left(self, num_computed: int, num_prompt: int) -> int:
        """Return how many rows may run before entries go."""
        return self.next_end(num_computed, num_prompt) - num_computed

    def drafts_left(self, num_computed: int, num_prompt: int) -> int:
        """Return how many of the next rows may be forgotten again, whatever was noted of them."""
        if "queries" in self.method.reads:
            return 0
        first = self.next_end(num_computed, num_prompt) - self.method.num_counted
        return max(0, first - num_computed)

    def notes(
        self, num_computed: int, num_rows: int, num_prompt: int, queries: Floats | None
    ) -> EntryNotes:
        """Return what an executor notes of the next rows."""
        method, first = self.method, self.drafts_left(num_computed, num_prompt)
        counts = method.num_counted > 0 and first < num_rows
        return EntryNotes(
            method.note,
            method.heads,
            first if counts else None,
            method.counts_largest,
            queries,
            method.sinks,
        )

    def drops_within(self, num_tokens: int) -> bool:
        """Whether a prompt of so many tokens loses entries before its last token is computed."""
        end = self.next_end(0, num_tokens)
        while end < num_tokens:
            budget = self.entries(end, num_tokens)
            if budget is None or end > budget:
                return True
            end = self.next_end(end, num_tokens)
        return False

    def drop(self, entries: "HeadEntries", text: TextSoFar, store: "KeyValues") -> bool:
        """Let entries go where a chunk has just ended and there are more than the budget.

        Says whether any went.
        """
        if not self.is_end(text.num_computed, text.num_prompt) or self.method.packed_bits:
            return False
        budget = self.entries(text.num_computed, text.num_prompt)
        is_shared = self.method.share != "head" or self.method.threshold is not None
        if budget is None or entries.longest > budget or is_shared:
            cached, order = read_entries(entries, store, self.method, text)
            is_last = self._is_last(text.num_computed, text.num_prompt)
            kept = self._chosen(cached, budget, is_last)
            is_kept = np.zeros(kept.shape, np.bool_)
            np.put_along_axis(is_kept, order, kept, axis=1)
            entries.keep(is_kept, store)
        if self.method.num_counted:
            entries.forget_scores(store)
        return True

    def _chosen(self, cached: Cached, budget: int | None, is_last: bool) -> Bools:
        """Return which entries stay.

        Raises:
            SettingsError: The policy gives no numbers, or numbers of another shape.
        """
        scores = np.asarray(self.method.score(cached), np.float32)
        exists = cached.positions >= 0
        if scores.shape != cached.positions.shape or np.isnan(scores[exists]).any():
            raise SettingsError(
                f"The eviction policy '{self.method.name}' gave scores of shape {scores.shape}, or "
                f"some that are no numbers, expected one for each of {cached.positions.shape} "
                f"entries; mend its score()."
            )
        return choose(self.method, scores, cached, budget, is_last)

    def to_dict(self) -> dict[str, Any]:  # Any: JSON values
        """Return plain values, from which `from_dict` builds the same again."""
        return {"method": self.method.settings(), "budget": self.budget}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Keeping":  # Any: JSON values
        """Build from what `to_dict` returned."""
        method = EVICTIONS.resolve(values["method"])
        return cls(method, _budget(method, values["budget"]))


def least_budget(method: Eviction) -> int:
    """Return the fewest entries of a head with which a policy can choose anything."""
    return method.sinks + method.window + 1


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
    if method.packed_bits:
        require(budget is None, "keep_budget", budget, f"none: '{method.name}' keeps every entry")
    elif budget is None and method.threshold is None:
        raise SettingsError(
            f"keep='{method.name}' needs a keep_budget: entries of each layer and KV head (256), "
            f"or a fraction of the text (0.25); give it."
        )
    return Keeping(method, _budget(method, budget))


def _budget(method: Eviction, budget: object) -> int | float | None:
    """Return a budget that `method` can keep to."""
    if budget is None:
        return None
    if isinstance(budget, Integral) and not isinstance(budget, bool):
        found, least = whole("keep_budget", budget), least_budget(method)
        if found < least:
            raise SettingsError(
                f"Found keep_budget={found}, and keep='{method.name}' always keeps "
                f"{method.sinks} sinks and a window of {method.window} tokens; give at least "
                f"{least}, or lower sinks or window; a share of the text has a point (0.25, or 1.0 "
                f"for all of it)."
            )
        return found
    found_fraction = number("keep_budget", budget)
    is_fraction = 0 < found_fraction <= 1
    require(is_fraction, "keep_budget", budget, "entries, or a fraction above 0 and at most 1.0")
    return found_fraction
