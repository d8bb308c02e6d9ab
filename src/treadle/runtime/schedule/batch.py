"""The scheduler: which tokens of which requests run next, and who must make room.

Every step forms the batch anew. Requests that generate run first, prompts fill the rest of the
token budget in chunks.

*No deadlock.* A request is accepted only if it fits an otherwise empty cache. Pages are given in
the order of rank (priority, then arrival), and a request may take them from running ones of lower
rank and from all that do not run; so the first in rank of those that run always runs on, never
loses what it has computed (but where its text grows beyond one of `rope_bounds`), and ends.
"""

from collections.abc import Callable, Sequence

from treadle.core.errors import CapacityError, SettingsError
from treadle.runtime.admit.queue import Queue
from treadle.runtime.cache.pages import PagePool
from treadle.runtime.cache.radix import PrefixTree
from treadle.runtime.request import Request, RequestState
from treadle.runtime.schedule.budget import Budget, StepBound, beside_less_served, beside_urgent
from treadle.runtime.schedule.holdings import Holdings, ModelSeen
from treadle.runtime.schedule.limits import Limits
from treadle.runtime.schedule.preempt import Preemption
from treadle.runtime.schedule.rows import RowChunk, next_chunk

__all__ = ["Batch"]


def _rank(request: Request) -> tuple[int, int]:
    return (request.priority, request.number)


class Batch:
    """The requests of one engine and the pages they hold."""

    def __init__(
        self,
        pool: PagePool,
        tree: PrefixTree,
        policy: Queue,
        limits: Limits,
        clock: Callable[[], float],
        model: ModelSeen | None = None,
    ) -> None:
        self.pool, self.tree, self.policy, self.limits = pool, tree, policy, limits
        self._clock = clock
        self.holdings = Holdings(pool, tree, model)
        self.preemption = Preemption(
            self.holdings, tree, limits.preemption == "swap", limits.has_prefix_cache
        )
        self.waiting: dict[str, Request] = {}
        self.running: dict[str, Request] = {}
        self.paused: dict[str, Request] = {}
        self.held: dict[str, Request] = {}
        """Branches that wait for who chooses their tokens; others may take what they hold."""
        self.expired: list[Request] = []
        """Requests that missed their deadline, until somebody takes note."""
        self._arrivals = 0

    def __contains__(self, request_id: str) -> bool:
        return any(request_id in group for group in self._groups())

    def __len__(self) -> int:
        """Return the number of unfinished requests."""
        return sum(len(group) for group in self._groups())

    def _groups(self) -> tuple[dict[str, Request], ...]:
        return (self.waiting, self.running, self.paused, self.held)

    def requests(self) -> list[Request]:
        """Return all unfinished requests."""
        return [request for group in self._groups() for request in group.values()]

    @property
    def num_preemptions(self) -> int:
        """How often a request had to give its pages away."""
        return self.preemption.count

    def get(self, request_id: str) -> Request:
        """Return an unfinished request.

        Raises:
            SettingsError: There is none of this id.
        """
        for group in self._groups():
            if request_id in group:
                return group[request_id]
        raise SettingsError(f"No unfinished request '{request_id}'; give the id of one that runs.")

    def add(self, request: Request, max_length: int) -> None:
        """Let a request wait for its turn.

        Args:
            request: In state WAITING.
            max_length: Tokens that it may grow to.

        Raises:
            SettingsError: Its id is in use.
            CapacityError: It does not even fit an empty cache.
        """
        self.accept(request, max_length)
        request.arrival = self._clock()
        self.policy.arrived(request, {other.client for other in self.requests()})
        self.waiting[request.id] = request

    def accept(self, request: Request, max_length: int) -> None:
        """Check that a request can run here and give it a number."""
        if request.id in self:
            raise SettingsError(
                f"Request id '{request.id}' is in use by an unfinished request; give every request "
                f"an id of its own."
            )
        # The last token is chosen but never run.
        needed = self.holdings.needed(request, max_length - 1)
        if needed > self.pool.num_pages:
            has_budget = request.keep is not None and request.keep.budget is not None
            mend = "shorten the prompt or lower max_tokens" + ", or lower keep_budget" * has_budget
            raise CapacityError(
                f"Request '{request.id}' may grow to {max_length} tokens, {needed} pages of "
                f"{self.pool.page_size}, and the cache has {self.pool.num_pages}; raise "
                f"cache_bytes, {mend}."
            )
        self._arrivals += 1
        request.number, request.longest = self._arrivals, max_length

    def schedule(self) -> list[RowChunk]:
        """Choose what runs next and give it its pages; may admit and preempt."""
        self._expire()
        urgent = self._claim() if self.policy.may_preempt else None
        running = sorted(self.running.values(), key=_rank)
        budget = Budget(self.limits.max_num_batched_tokens, self._bounds(running, urgent))
        rows = self._share_budget(running, urgent, budget)
        preempted_before = self.preemption.count
        planned: dict[str, RowChunk] = {}
        for request in running:
            num_rows = self._fitting(request, rows.get(request.id, 0))
            if (
                num_rows
                and request.id in self.running
                and self._make_room(request, num_rows, planned)
            ):
                planned[request.id] = next_chunk(request, num_rows)
        if self.preemption.count == preempted_before:
            self._admit(planned, budget)
        return list(planned.values())

    def _bounds(self, running: list[Request], urgent: int | None) -> list[StepBound]:
        """Return who gets few rows in a step, as far as the policy looks at that."""
        found, limits = [], self.limits
        if self.policy.may_preempt and limits.rows_beside_urgent is not None:
            priorities = [request.priority for request in running]
            priorities += [] if urgent is None else [urgent]
            found.append(beside_urgent(priorities, limits.rows_beside_urgent))
        if self.policy.is_fair and limits.rows_beside_less_served is not None:
            rows = limits.rows_beside_less_served
            found.append(beside_less_served(running, self.policy.served, rows))
        return found

    def _claim(self) -> int | None:
        """Let the first in the queue take the place of running ones of lower priority.

        Returns its priority if it has a place now: then it also comes before their prompts.
        """
        queue = [request for request in self._queue() if not self._awaits_parent(request)]
        if not queue:
            return None
        while not self._has_place(queue[0]):
            lower = [r for r in self.running.values() if r.priority > queue[0].priority]
            if not lower:
                return None
            self._preempt(max(lower, key=_rank))
        return queue[0].priority

    def _queue(self) -> list[Request]:
        now = self._clock()
        return sorted(self.waiting.values(), key=lambda r: self.policy.place(r, now))

    def _share_budget(
        self, running: list[Request], urgent: int | None, budget: Budget
    ) -> dict[str, int]:
        """Return how many rows each running request gets: generating ones first, then prompts.

        Prompts of lower priority than `urgent` wait for the one that is about to be let in. Drafts
        get what the others leave.
        """
        rows = {r.id: budget.take(r, 1) for r in running if r.num_remaining == 1}
        generating = [request for request in running if rows.get(request.id)]
        for request in running:
            may_run = urgent is None or request.priority <= urgent
            if request.id not in rows and may_run:
                rows[request.id] = budget.take(request, request.num_ready)
        for request in generating:
            rows[request.id] += budget.take(request, request.num_ready - 1)
        return rows

    def _fitting(self, request: Request, num_rows: int) -> int:
        """Return how many of its rows a request runs: drafts take no pages from other requests."""
        num_tokens = min(num_rows, request.num_remaining)
        if num_rows == num_tokens or request.id not in self.running:
            return num_rows
        return num_rows if self.holdings.grow(request, num_rows) else num_tokens

    def _make_room(self, request: Request, num_rows: int, planned: dict[str, RowChunk]) -> bool:
        """Give `request` the pages of its next rows, from those of lower rank where need be.

        Returns False if there are none, and then the request itself has made room.
        """
        while not self.holdings.grow(request, num_rows):
            lower = [
                other
                for other in self.running.values()
                if other.id not in planned and _rank(other) > _rank(request)
            ]
            victim = max(lower or self._idle_holders(request) or [request], key=_rank)
            self._preempt(victim)
            if victim is request:
                return False
        return True

    def _preempt(self, request: Request) -> None:
        """Take a request's pages; a running one waits again."""
        self.preemption.take(request)
        if self.running.pop(request.id, None) is not None:
            self._queue_again(request)

    def _admit(self, planned: dict[str, RowChunk], budget: Budget) -> None:
        """Let waiting requests in while budget, places and pages last, in the policy's order."""
        for request in self._queue():
            if budget.left(request) <= 0:
                return
            if self._awaits_parent(request):
                continue
            if not self._has_place(request):
                return
            self._start(request)
            num_rows = budget.take(request, min(request.num_ready, request.num_remaining))
            if not self.holdings.grow(request, num_rows):
                self._preempt(request)
                return
            planned[request.id] = next_chunk(request, num_rows)

    def _awaits_parent(self, request: Request) -> bool:
        """Say whether the prompt that a request shares is about to be computed by another one."""
        parent = self.waiting.get(request.parent or "") or self.running.get(request.parent or "")
        return parent is not None and parent.state in (RequestState.WAITING, RequestState.PREFILL)

    def _has_place(self, request: Request) -> bool:
        """Say whether `request` can be let in; where nothing runs, idle ones make room for it."""
        if len(self.running) >= self.limits.max_num_seqs:
            return False
        while not self._fits(request):
            if self.running:
                return False
            self._preempt(max(self._idle_holders(request), key=_rank))
        return True

    def _idle_holders(self, request: Request) -> list[Request]:
        """Return what holds pages without running: paused, held, or not yet let in again."""
        idle = [*self.waiting.values(), *self.paused.values(), *self.held.values()]
        return [other for other in idle if other.holds_cache and other is not request]

    def _fits(self, request: Request) -> bool:
        """Say whether all of a request's tokens find pages beside what the running ones need."""
        if not self.running and not self._idle_holders(request):
            return True  # accepted, so it fits an empty cache
        needed, held = self.holdings.needed, self.holdings.held
        promised = sum(
            max(0, needed(other, len(other.tokens)) - held(other))
            for other in self.running.values()
        )
        found = self.preemption.found(request, self.running.get(request.parent or ""))
        # Cached pages that it takes stop being evictable.
        taken = sum(1 for page in found if self.pool.holders[page] == 1)
        kept = 0 if request.entries is None else held(request)
        missing = needed(request, len(request.tokens)) - len(found) + taken - kept
        watermark = int(self.limits.watermark_fraction * self.pool.num_pages)
        return missing + promised + watermark <= self.holdings.num_available(request)

    def _start(self, request: Request) -> None:
        """Move a request from waiting to running with what is cached of it."""
        del self.waiting[request.id]
        self.running[request.id] = request
        parent = self.running.get(request.parent or "")
        self.preemption.give_back(request, parent)
        request.num_cached = request.num_computed
        is_new_text = request.num_new == 0 or request.num_remaining > 1
        request.state = RequestState.PREFILL if is_new_text else RequestState.RUNNING

    def advance(self, chunk: RowChunk, num_rejected: int = 0, num_added: int | None = None) -> None:
        """Note that a chunk's rows are computed and let others find its full pages.

        Args:
            chunk: What was computed.
            num_rejected: Rows at its end whose drafts were not chosen: they are rolled back.
            num_added: Tokens that were chosen by its rows and stand in the request already; unless
                given, one for each row that was to choose and was not rejected.
        """
        request = chunk.request
        chosen = chunk.num_choices - num_rejected if num_added is None else num_added
        num_tokens = len(request.tokens) - chosen
        regime = request.regime_at(num_tokens)  # that the rows were computed in
        before = request.num_computed // self.pool.page_size
        self.holdings.add_rows(request, chunk.num_rows)
        self.holdings.roll_back(request, num_rejected)
        if chunk.num_choices:
            request.state = RequestState.RUNNING
        has_full_page = request.num_computed // self.pool.page_size > before
        if request.keep is not None:
            self.holdings.drop(request)
        elif self.limits.has_prefix_cache and has_full_page:
            self.preemption.publish(request, regime)
        if request.regime != regime:
            self.preemption.restart(request)

    def finish(self, request: Request, reason: str) -> None:
        """End a request and let its pages go; what is cached of it stays in the tree."""
        for group in self._groups():
            group.pop(request.id, None)
        self.preemption.drop(request)
        request.state, request.finish_reason = RequestState.FINISHED, reason

    def borrow(self, count: int) -> list[int]:
        """Return `count` pages for use outside any request, taken from requests where need be.

        Raises:
            CapacityError: There are fewer.
        """
        while self.pool.num_free + self.tree.evict(count - self.pool.num_free) < count:
            holders = [other for other in self.requests() if other.holds_cache]
            if count > self.pool.num_pages or not holders:
                raise CapacityError(
                    f"{count} pages of {self.pool.page_size} tokens are needed, and the cache has "
                    f"{self.pool.num_pages}, beside other texts that are scored; raise cache_bytes."
                )
            self._preempt(max(holders, key=_rank))
        return self.pool.allocate(count)

    def pause(self, request: Request) -> None:
        """Stop running a request; it keeps its pages unless others need them."""
        for group in (self.waiting, self.running, self.held):
            group.pop(request.id, None)
        request.state = RequestState.MIGRATING
        self.paused[request.id] = request

    def resume(self, request_id: str) -> None:
        """Let a paused request run on, before new ones.

        Raises:
            SettingsError: It is not paused.
        """
        if request_id not in self.paused:
            raise SettingsError(f"Request '{request_id}' is not paused; pause or import it before.")
        request = self.paused.pop(request_id)
        if not request.num_remaining:  # a branch that was held elsewhere: its last row runs again
            self.preemption.repeat_last(request)
        self._queue_again(request)

    def _queue_again(self, request: Request) -> None:
        request.state = RequestState.PREEMPTED
        self.waiting[request.id] = request

    def fork(self, request: Request, parent: Request, max_length: int, num_tokens: int) -> None:
        """Let a branch of an unfinished request wait for its turn, before new requests.

        Args:
            request: New; begins as its parent does.
            parent: Shares what it holds of these tokens.
            max_length: Tokens that the branch may grow to.
            num_tokens: That both have in common, fewer than the branch has.

        Raises:
            SettingsError: Its id is in use.
            CapacityError: It does not even fit an empty cache.
        """
        self.accept(request, max_length)
        request.arrival = parent.arrival
        self.preemption.branch(request, parent, num_tokens)
        self._queue_again(request)

    def hold(self, request: Request) -> None:
        """Stop running a branch until `extend`; it keeps its pages unless others need them."""
        for group in (self.waiting, self.running):
            group.pop(request.id, None)
        request.state = RequestState.HELD
        self.held[request.id] = request

    def extend(self, request: Request, tokens: Sequence[int]) -> None:
        """Give a branch its next tokens; one that was held runs on, before new requests."""
        regime = request.regime
        request.tokens += tokens
        if request.regime != regime:
            self.preemption.restart(request)
        if self.held.pop(request.id, None) is not None:
            self._queue_again(request)

    def _expire(self) -> None:
        now = self._clock()
        for request in self.requests():
            if request.deadline is not None and now >= request.deadline:
                self.finish(request, "deadline")
                self.expired.append(request)
