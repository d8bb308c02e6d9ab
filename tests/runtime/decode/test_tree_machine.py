"""Trees among other requests, whatever happens to a branch: no page leaks, no answer is wrong.

The rules and invariants of `test_state_machine` hold for branches, too; these come on top.
"""

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, rule

from runtime.decode.scripted import Hasty, Scripted
from runtime.test_state_machine import KEEPINGS, LONGEST, TEXT, Engine
from treadle.core.errors import CapacityError
from treadle.runtime.decode.base import Surroundings
from treadle.runtime.request import Request, RequestState, SamplingParams
from treadle.runtime.schedule.migrate import export_pages, import_pages
from treadle.runtime.schedule.search import TreeSearch


def nothing(*_: object) -> list:
    raise AssertionError("nobody asks")


class Trees(Engine):
    searches: Bundle[TreeSearch] = Bundle("searches")
    num_pages = 13
    # What happens to plain requests is tried there; steps are better spent on trees.
    ask_one_more = branch = draft = cancel = pause = resume = leave_and_come_back = None

    @rule(
        target=searches,
        length=st.integers(1, 8),
        count=st.integers(1, 12),
        salt=st.sampled_from(["", "x"]),
        keep=st.sampled_from(KEEPINGS),
        lives=st.sampled_from([None, None, None, 40]),
        seed=st.integers(0, 99),
        waits=st.booleans(),
    )
    def search(self, length, count, salt, keep, lives, seed, waits):
        deadline = None if lives is None else self.small.clock() + lives
        kind = Scripted if waits else Hasty
        if not hasattr(self, "trees"):
            self.trees: list[TreeSearch] = []
        prompt, name = TEXT[:length], f"t{len(self.trees)}"
        params = SamplingParams(temperature=0, max_tokens=count)
        fields = {"salt": salt, "keep": keep, "deadline": deadline, "params": params}
        request = self.small.add(name, prompt, count, **fields)
        around = Surroundings(frozenset(), count, seed, nothing, None, nothing, None)
        found = TreeSearch(self.small.batch, request, kind(seed=seed, keep=keep), around)
        self.small.runner.searches.begin(found)
        self.trees.append(found)
        return found

    def branch_in(self, found: TreeSearch, number: int) -> Request | None:
        if not found.requests:
            return None
        own = found.requests[number % len(found.requests)]
        return self.small.batch.get(own.id) if own.id in self.small.batch else None

    @rule(found=searches, number=st.integers(0, 5))
    def cancel_branch(self, found, number):
        branch = self.branch_in(found, number)
        if branch is not None:
            self.small.batch.finish(branch, "cancelled")

    @rule(found=searches, number=st.integers(0, 5))
    def pause_branch(self, found, number):
        branch = self.branch_in(found, number)
        if branch is not None:
            self.small.batch.pause(branch)

    @rule(found=searches, number=st.integers(0, 5), moves=st.booleans())
    def resume_branch(self, found, number, moves):
        """Let a paused branch run on, perhaps after it left and came back."""
        branch = self.branch_in(found, number)
        if branch is None or branch.state is not RequestState.MIGRATING:
            return
        batch, clock = self.small.batch, self.small.clock
        if moves:
            exported = export_pages(batch, branch.id, 0, clock)
            needed = exported.num_pages
            if exported.lengths is not None:
                needed = batch.holdings.planes.pages_for(len(exported.content[0]))
            if needed > self.small.pool.num_free + self.small.tree.num_evictable:
                return
            batch.finish(branch, "migrated")
            import_pages(batch, exported, LONGEST, clock)
        batch.resume(branch.id)

    @rule(found=searches, number=st.integers(0, 5))
    def take_pages(self, found, number):
        branch = self.branch_in(found, number)
        if branch is not None and branch.holds_cache:
            self.small.batch._preempt(branch)

    @rule(found=searches, is_meant=st.sampled_from([True, False, False, False]))
    def close(self, found, is_meant):
        if is_meant:
            self.small.runner.searches.close(found)
            assert not found.requests

    def teardown(self):
        super().teardown()
        self.small.step()  # the last branches may have been cancelled
        for found in getattr(self, "trees", []):
            assert found.is_done
            if found.error is not None and not isinstance(found.error, CapacityError):
                raise found.error
            tree = found.tree
            assert not tree.leaves()
            for node in tree.nodes.values():
                assert tree.path(node.id)[-1] is node
                assert len(tree.text(node.id)) == node.end
            assert all(n in tree.nodes for n in found.ranked)


Trees.TestCase.settings = settings(
    max_examples=200,
    stateful_step_count=40,
    deadline=None,
    phases=[Phase.generate],
    report_multiple_bugs=False,
)
TestTrees = Trees.TestCase
