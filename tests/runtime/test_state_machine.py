"""Whatever is asked in whatever order: no page leaks, nothing deadlocks, every answer is right.

The echo executor reads its answers from the pages, so a page that was given to two, evicted while
it was in use, or not copied before it was written to, changes a token.
"""

from functools import cache

import numpy as np
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from runtime.engines import SHAPE, VOCAB, Small, continuation, kept_continuation
from treadle.runtime.admit.tables import ADMISSIONS
from treadle.runtime.evict.keeping import Keeping
from treadle.runtime.evict.tables import EVICTIONS
from treadle.runtime.request import Request, RequestState, SamplingParams
from treadle.runtime.schedule.migrate import export_pages, import_pages

NUM_PAGES, PAGE_SIZE = 7, 3
LONGEST = NUM_PAGES * PAGE_SIZE
TEXT = [5, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4]
KEEPINGS = [
    None,
    Keeping(EVICTIONS.resolve({"method": "sinks", "sinks": 1, "chunk_tokens": 4}), 3),
    Keeping(EVICTIONS.resolve({"method": "random", "chunk_tokens": 2}), 5),
    Keeping(EVICTIONS.resolve({"method": "random", "spread": 0.9, "chunk_tokens": 5}), 0.3),
    Keeping(EVICTIONS.resolve({"method": "random", "share": "all", "chunk_tokens": 3}), 4),
    # Its rows cannot be taken back once they count; what it counts is nothing here.
    Keeping(
        EVICTIONS.resolve(
            {"method": "snapkv", "window": 2, "sinks": 1, "kernel": 1, "chunk_tokens": 4}
        ),
        5,
    ),
]
SPECULATED = [
    *("none", "ngram", "recycling"),
    {"method": "suffix", "offset": 2, "least_chance": 0.01, "shape": "tree"},
]
prompts = st.tuples(st.integers(1, 14), st.integers(0, 2)).map(
    lambda drawn: TEXT[: drawn[0]] + [drawn[1]] * drawn[1]
)


def answer_of(request: Request, count: int) -> list[int]:
    prompt = tuple(request.tokens[: request.num_prompt])
    return list(_answer_of(prompt, count, request.keep))


@cache
def _answer_of(prompt: tuple[int, ...], count: int, keep: Keeping | None) -> list[int]:
    if keep is None:
        return continuation(prompt, count)
    return kept_continuation(prompt, count, keep)


class Engine(RuleBasedStateMachine):
    requests: Bundle[Request] = Bundle("requests")
    num_pages = NUM_PAGES

    @initialize(
        policy=st.sampled_from(list(ADMISSIONS.table)),
        preemption=st.sampled_from(["recompute", "swap"]),
        has_prefix_cache=st.booleans(),
        max_num_seqs=st.integers(1, 4),
        budget=st.integers(4, 12),
        watermark=st.sampled_from([0.0, 0.3]),
        beside=st.sampled_from([None, 0, 1]),
        less_served=st.sampled_from([None, 1, 2]),
        rope=st.sampled_from([((), None), ((9,), None), ((4, 13), None), ((), 5)]),
        speculate=st.sampled_from(SPECULATED),
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
        rope,
        speculate,
    ):
        self.small = Small(
            self.num_pages,
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
            rope_bounds=rope[0],
            rope_dynamic_from=rope[1],
            speculate=speculate,
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
        keep=st.sampled_from(KEEPINGS),
        has_sibling=st.booleans(),
    )
    def ask(self, prompt, count, client, priority, lives, salt, keep, has_sibling):
        deadline = None if lives is None else self.small.clock() + lives
        fields = {"client": client, "priority": priority, "deadline": deadline, "salt": salt}
        fields["keep"] = keep
        found = self.small.add(f"r{len(self.all)}", prompt, count, **fields)
        self.all.append(found)
        if has_sibling:
            self.ask_sibling(found, count)
        return found

    @rule(parent=requests, count=st.integers(1, 6))
    def ask_one_more(self, parent, count):
        self.ask_sibling(parent, count)

    def ask_sibling(self, parent, count):
        prompt = parent.tokens[: parent.num_prompt]
        fields = {"parent": parent.id, "keep": parent.keep}
        found = self.small.add(f"r{len(self.all)}", prompt, count, **fields)
        self.all.append(found)

    @rule(
        parent=requests,
        place=st.integers(1, 12),
        token=st.integers(0, 3),
        count=st.integers(1, 4),
        salt=st.sampled_from(["", "x"]),
        ends=st.booleans(),
    )
    def branch(self, parent, place, token, count, salt, ends):
        """Go another way somewhere in what an unfinished request has computed."""
        place = min(place, parent.num_computed)
        if parent.id not in self.small.batch or not place or place + 1 + count > LONGEST:
            return
        tokens = [*parent.tokens[:place], token]
        params = SamplingParams(temperature=0, max_tokens=count)
        fields = {"salt": salt, "keep": parent.keep, "rope_bounds": parent.rope_bounds}
        fields["rope_dynamic_from"] = parent.rope_dynamic_from
        name = f"r{len(self.all)}"
        found = Request(name, tokens, len(tokens), params, 0, client=parent.client, **fields)
        self.small.batch.fork(found, parent, len(tokens) + count, place)
        self.all.append(found)
        if ends:
            self.cancel(parent)

    @rule(request=requests, num_right=st.integers(0, 3), wrong=st.integers(0, 2))
    def draft(self, request, num_right, wrong):
        """Propose what follows, right at first and then perhaps wrong."""
        if request.state is not RequestState.FINISHED:
            right = answer_of(request, request.num_new + num_right)[request.num_new :]
            request.drafts = right + [(right or [0])[-1] + 1] * wrong
            request.draft_parents = []

    @rule(request=requests, wrong=st.lists(st.integers(0, 2), min_size=1, max_size=4))
    def draft_tree(self, request, wrong):
        """Propose a tree: at each depth so many wrong tokens with one behind, and the right one."""
        if request.state is RequestState.FINISHED:
            return
        right = answer_of(request, request.num_new + len(wrong))[request.num_new :]
        tokens, parents, place = [], [], -1
        for token, count in zip(right, wrong, strict=True):
            for number in range(1, count + 1):
                tokens += [(token + number) % VOCAB, token]
                parents += [place, len(tokens) - 2]
            tokens.append(token)
            parents.append(place)
            place = len(tokens) - 1
        request.drafts, request.draft_parents = tokens, parents

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
        needed = exported.num_pages
        if exported.lengths is not None:
            needed = batch.holdings.planes.pages_for(len(exported.content[0]))
        if needed > self.small.pool.num_free + self.small.tree.num_evictable:
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
        planes = self.small.batch.holdings.planes
        np.add.at(expected, sorted(planes.broken), 1)
        held = [plane for r in unfinished if r.entries is not None for plane in r.entries.held]
        free = [plane for own in planes._free.values() for plane in own]
        of_broken = [plane for page in planes.broken for plane in pool.store.planes_of(page)]
        assert sorted(held + free) == sorted(of_broken)
        assert pool.holders.tolist() == expected.tolist()
        assert pool.num_free == int((expected == 0).sum())
        ended = [r for r in self.all if r.state is RequestState.FINISHED]
        assert all(not r.pages and r.entries is None for r in ended)
        assert len(self.small.batch.running) <= self.small.limits.max_num_seqs

    @invariant()
    def every_answer_is_right_so_far(self):
        for request in getattr(self, "all", []):
            assert request.outputs == answer_of(request, request.num_new)

    @invariant()
    def no_head_keeps_more_than_its_policy_allows(self):
        for request in getattr(self, "all", []):
            if request.entries is None:
                continue
            budget = request.keep.entries(request.num_computed, request.num_prompt)
            most = SHAPE.num_heads * (budget + request.keep.method.chunk_tokens)
            assert request.entries.lengths.sum() <= most
            needed = self.small.batch.holdings.needed(request, request.num_computed)
            fitting = -(-request.entries.lengths // PAGE_SIZE)
            assert fitting.sum() <= needed * SHAPE.num_heads

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
        assert self.small.pool.num_free == self.num_pages
        assert not self.small.batch.preemption._swapped


# Shrinking a failure of this machine takes minutes; its first steps are found in seconds.
Engine.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    phases=[Phase.generate],
    report_multiple_bugs=False,
)
TestEngine = Engine.TestCase
