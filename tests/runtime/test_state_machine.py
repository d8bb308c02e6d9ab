"""Whatever is asked in whatever order: no page leaks, nothing deadlocks, every answer is right.

The echo executor reads its answers from the pages, so a page that was given to two, evicted while
it was in use, or not copied before it was written to, changes a token.
"""

import numpy as np
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from runtime.engines import Small, continuation
from treadle.runtime.migrate import export_pages, import_pages
from treadle.runtime.policy import POLICIES
from treadle.runtime.request import Request, RequestState

NUM_PAGES, PAGE_SIZE = 7, 3
LONGEST = NUM_PAGES * PAGE_SIZE
TEXT = [5, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4]
prompts = st.tuples(st.integers(1, 14), st.integers(0, 2)).map(
    lambda drawn: TEXT[: drawn[0]] + [drawn[1]] * drawn[1]
)


class Engine(RuleBasedStateMachine):
    requests: Bundle[Request] = Bundle("requests")

    @initialize(
        policy=st.sampled_from(POLICIES),
        preemption=st.sampled_from(["recompute", "swap"]),
        has_prefix_cache=st.booleans(),
        max_num_seqs=st.integers(1, 4),
        budget=st.integers(4, 12),
        watermark=st.sampled_from([0.0, 0.3]),
        beside=st.sampled_from([None, 0, 1]),
        less_served=st.sampled_from([None, 1, 2]),
    )
    def start(
        self,
        policy,
        preemption,
        has_prefix_cache,
        max_num_seqs,
        budget,
        watermark,
        beside,
        less_served,
    ):
        self.small = Small(
            NUM_PAGES,
            PAGE_SIZE,
            policy,
            ageing_seconds=20,
            preemption=preemption,
            has_prefix_cache=has_prefix_cache,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=budget,
            watermark_fraction=watermark,
            rows_beside_urgent=beside,
            rows_beside_less_served=less_served,
        )
        self.all: list[Request] = []

    @rule(
        target=requests,
        prompt=prompts,
        count=st.integers(1, 6),
        client=st.sampled_from("ab"),
        priority=st.integers(0, 2),
        lives=st.one_of(st.none(), st.integers(1, 60)),
        salt=st.sampled_from(["", "x"]),
    )
    def ask(self, prompt, count, client, priority, lives, salt):
        deadline = None if lives is None else self.small.clock() + lives
        fields = {"client": client, "priority": priority, "deadline": deadline, "salt": salt}
        found = self.small.add(f"r{len(self.all)}", prompt, count, **fields)
        self.all.append(found)
        return found

    @rule(parent=requests, count=st.integers(1, 6))
    def ask_sibling(self, parent, count):
        prompt = parent.tokens[: parent.num_prompt]
        found = self.small.add(f"r{len(self.all)}", prompt, count, parent=parent.id)
        self.all.append(found)

    @rule(times=st.integers(1, 4))
    def step(self, times):
        batch = self.small.batch
        for _ in range(times):
            can_run = bool(batch.waiting or batch.running)
            before = self.small.runner.num_rows
            self.small.step()
            stuck = self.small.runner.num_rows == before and (batch.waiting or batch.running)
            assert not (can_run and stuck)

    @rule(request=requests)
    def cancel(self, request):
        if request.id in self.small.batch:
            self.small.batch.finish(self.small.batch.get(request.id), "cancelled")

    @rule(request=requests)
    def pause(self, request):
        if request.id in self.small.batch:
            self.small.batch.pause(self.small.batch.get(request.id))

    @rule(request=requests)
    def resume(self, request):
        if request.id in self.small.batch.paused:
            self.small.batch.resume(request.id)

    @rule(request=requests)
    def leave_and_come_back(self, request):
        """Export a paused request, end it, and import it again."""
        batch, clock = self.small.batch, self.small.clock
        if request.id not in batch.paused:
            return
        exported = export_pages(batch, request.id, 0, clock)
        if exported.num_pages > self.small.pool.num_free + self.small.tree.num_evictable:
            return
        batch.finish(batch.get(request.id), "migrated")
        import_pages(batch, exported, LONGEST, clock)
        self.all.append(batch.get(request.id))

    @rule(count=st.integers(1, NUM_PAGES))
    def borrow(self, count):
        pages = self.small.batch.borrow(count)
        self.small.pool.release(pages)

    @rule()
    def clear_cache(self):
        self.small.tree.clear()

    @invariant()
    def every_page_is_held_by_those_who_say_so(self):
        if not hasattr(self, "small"):
            return
        pool, tree = self.small.pool, self.small.tree
        expected = tree._cached.astype(int)
        unfinished = self.small.batch.requests()
        for request in unfinished:
            assert len(set(request.pages)) == len(request.pages)
            np.add.at(expected, request.pages, 1)
        assert pool.holders.tolist() == expected.tolist()
        assert pool.num_free == int((expected == 0).sum())
        assert all(not r.pages for r in self.all if r.state is RequestState.FINISHED)
        assert len(self.small.batch.running) <= self.small.limits.max_num_seqs

    @invariant()
    def every_answer_is_right_so_far(self):
        for request in getattr(self, "all", []):
            prompt = request.tokens[: request.num_prompt]
            assert request.outputs == continuation(prompt, request.num_new)

    def teardown(self):
        if not hasattr(self, "small"):
            return
        for name in list(self.small.batch.paused):
            self.small.batch.resume(name)
        self.small.run()
        self.every_answer_is_right_so_far()
        complete = [r for r in self.all if r.finish_reason == "length"]
        assert all(r.num_new == r.params.max_tokens for r in complete)
        self.small.tree.clear()
        assert self.small.pool.num_free == NUM_PAGES
        assert not self.small.batch.preemption._swapped


# Shrinking a failure of this machine takes minutes; its first steps are found in seconds.
Engine.TestCase.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    phases=[Phase.generate],
    report_multiple_bugs=False,
)
TestEngine = Engine.TestCase
