"""A branch shares what its parent has, wherever it leaves it, and computes what is its own."""

import pytest

from runtime.engines import Small, continuation, kept_continuation
from treadle.runtime.evict.keeping import Keeping
from treadle.runtime.evict.tables import EVICTIONS
from treadle.runtime.request import Request, RequestState, SamplingParams

PROMPT = [3, 1, 4, 1, 5, 9, 2]
KEEP = Keeping(EVICTIONS.resolve({"method": "random", "chunk_tokens": 4}), 5)


def parent_in(small: Small, num_new: int, **fields: object) -> Request:
    found = small.add("parent", PROMPT, 20, **fields)
    while found.num_new < num_new:
        small.step()
    return found


def branch_of(parent: Request, small: Small, place: int, token: int = 7, **fields) -> Request:
    tokens, params = [*parent.tokens[:place], token], SamplingParams(temperature=0, max_tokens=14)
    given = {"salt": parent.salt, "keep": parent.keep, "rope_bounds": parent.rope_bounds, **fields}
    found = Request(f"branch {token}", tokens, parent.num_prompt, params, 0, **given)
    small.batch.fork(found, parent, parent.num_prompt + 14, place)
    return found


def rest_of(branch: Request, place: int) -> list[int]:
    """What follows the token with which a branch left its parent."""
    return continuation(branch.tokens[: place + 1], len(branch.tokens) - place - 1)


@pytest.mark.parametrize("place", [1, 4, 7, 8, 9, 11])
def test_it_shares_the_pages_up_to_any_place_and_copies_the_last(place):
    small = Small(num_pages=30, max_num_seqs=8)
    parent = parent_in(small, 6)
    assert parent.num_computed == 12
    before = small.runner.num_rows
    branches = [branch_of(parent, small, place, token) for token in (7, 8)]
    shared = parent.pages[: -(-place // 4)]
    assert [b.pages for b in branches] == [shared, shared]
    small.batch.finish(parent, "cancelled")
    small.step()
    assert small.runner.num_rows == before + 2  # nothing of the common start runs again
    assert all(b.pages[: place // 4] == shared[: place // 4] for b in branches)
    if place % 4:
        assert branches[0].pages[place // 4] != branches[1].pages[place // 4]
    small.run()
    for branch in branches:
        assert branch.tokens[place + 1 :] == rest_of(branch, place)


@pytest.mark.parametrize("preemption", ["recompute", "swap"])
def test_it_comes_back_where_its_parent_was_preempted(preemption):
    small = Small(num_pages=30, preemption=preemption)
    parent = parent_in(small, 6)
    small.batch.hold(parent)
    small.batch._preempt(parent)
    assert not parent.pages
    branch = branch_of(parent, small, 12)
    assert not branch.pages
    small.batch.finish(parent, "cancelled")
    before = small.runner.num_rows
    small.step()
    # By recomputation the whole pages come from the prefix tree.
    assert small.runner.num_rows - before == 1
    assert branch.num_cached == 12
    small.run()
    assert branch.tokens[13:] == rest_of(branch, 12)
    assert not small.batch.preemption._swapped


def test_heads_that_keep_their_own_entries_are_copied():
    small = Small(num_pages=40, max_num_seqs=8)
    parent = parent_in(small, 8, keep=KEEP)
    place, before = parent.num_computed, small.runner.num_rows
    branch = branch_of(parent, small, place, parent.tokens[place])
    assert set(branch.entries.held).isdisjoint(parent.entries.held)
    small.step()
    assert small.runner.num_rows == before + 2
    small.run()
    assert parent.outputs[:14] == branch.outputs == kept_continuation(PROMPT, 14, KEEP)


def test_entries_that_went_are_computed_again():
    small = Small(num_pages=40)
    parent = parent_in(small, 8, keep=KEEP)
    branch = branch_of(parent, small, 8, parent.tokens[8])
    assert branch.entries is None
    small.run()
    assert branch.outputs == kept_continuation(PROMPT, 14, KEEP)


@pytest.mark.parametrize("fields", [{"salt": "x"}, {"keep": KEEP}, {"rope_bounds": (9,)}])
def test_what_must_not_be_shared_is_not(fields):
    small = Small(num_pages=40, rope_bounds=(9,) if "rope_bounds" in fields else ())
    parent = parent_in(small, 2 if "rope_bounds" in fields else 6)
    branch = branch_of(parent, small, parent.num_computed, **fields)
    if "rope_bounds" in fields:
        branch.tokens += [1, 2]
        small.batch.holdings.release(branch)
        branch.num_computed = 0
        small.batch.preemption.branch(branch, parent, parent.num_computed)
    assert not branch.pages
    assert branch.entries is None


def test_a_held_branch_gives_its_pages_to_others_and_runs_on():
    small = Small(num_pages=7, max_num_seqs=2)
    parent = parent_in(small, 6)
    parent.tokens.pop()
    small.batch.hold(parent)
    assert parent.state is RequestState.HELD
    other = small.add("other", [9, 8, 7, 6], 16)
    while other.state is not RequestState.FINISHED:
        small.step()
    assert other.outputs == continuation([9, 8, 7, 6], 16)
    assert not parent.pages
    small.batch.extend(parent, [5, 6])
    assert parent.state is RequestState.PREEMPTED
    place = len(parent.tokens)
    small.run()
    assert parent.tokens[place:] == rest_of(parent, place - 1)


def test_a_text_that_grows_over_a_bound_starts_again():
    small = Small(num_pages=30, rope_bounds=(9,))
    parent = parent_in(small, 2)
    parent.tokens.pop()
    small.batch.hold(parent)
    small.batch.extend(parent, [5, 6, 8])
    assert not parent.num_computed
    small.run()
    assert parent.tokens[11:] == rest_of(parent, 10)


def test_a_held_branch_that_leaves_runs_its_last_row_again():
    small = Small(num_pages=30)
    parent = parent_in(small, 6)
    parent.tokens.pop()
    assert not parent.num_remaining
    small.batch.pause(parent)
    small.batch.resume("parent")
    assert parent.num_remaining == 1
    small.run()
    assert parent.outputs == continuation(PROMPT, 20)
