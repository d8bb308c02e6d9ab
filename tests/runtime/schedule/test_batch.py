"""The scheduler on a virtual clock: order, fairness, chunks, preemption, deadlines."""

import numpy as np
import pytest

from runtime.engines import SHAPE, EchoExecutor, Small, continuation
from treadle.core.errors import CapacityError, CheckpointError, SettingsError
from treadle.runtime.request import RequestState, SamplingParams
from treadle.runtime.schedule.limits import Limits
from treadle.runtime.timed import TimedExecutor


def test_one_request_alone():
    small = Small()
    request = small.add("a", [1, 2, 3, 4, 5], 6)
    small.run()
    assert request.outputs == continuation([1, 2, 3, 4, 5], 6)
    assert (request.state, request.finish_reason) == (RequestState.FINISHED, "length")


def test_first_come_first_served():
    small = Small(max_num_seqs=1)
    for name in "abc":
        small.add(name, [ord(name), 1, 2], 3, priority=-ord(name))
    small.run()
    assert small.finished == ["a", "b", "c"]


def test_lower_priority_number_goes_first():
    small = Small(policy="priority", max_num_seqs=1)
    for name, priority in (("a", 2), ("b", 1), ("c", 0), ("d", 1)):
        small.add(name, [ord(name), 1, 2], 3, priority=priority)
    small.run()
    assert small.finished == ["c", "b", "d", "a"]


@pytest.mark.parametrize("preemption", ["recompute", "swap"])
def test_the_important_take_the_place_of_others(preemption):
    """Also in the middle of a prompt that runs in chunks."""
    small = Small(
        policy="priority", max_num_seqs=1, max_num_batched_tokens=4, preemption=preemption
    )
    low = small.add("low", list(range(10)), 3, priority=1)
    small.step()
    assert low.state is RequestState.PREFILL
    small.add("high", [7, 8, 9], 2, priority=0)
    small.run()
    assert small.finished == ["high", "low"]
    assert low.num_preemptions == 1
    assert low.outputs == continuation(list(range(10)), 3)


def test_the_important_run_before_prompts_of_others():
    small = Small(policy="priority", num_pages=32, max_num_batched_tokens=4)
    small.add("low", list(range(40)), 3, priority=1)
    small.step()
    high = small.add("high", [7, 8, 9], 1, priority=0)
    small.step()
    assert high.state is RequestState.FINISHED
    small.run()


@pytest.mark.parametrize("policy", ["priority", "fair_priority"])
def test_few_rows_run_beside_an_urgent_request(policy):
    """Of generating ones and of prompts, running and new; those of equal priority are not bound."""
    small = Small(policy=policy, num_pages=64, max_num_seqs=8, rows_beside_urgent=2)
    low = [small.add(f"low{k}", [k + 1], 9, priority=1) for k in range(3)]
    small.step()
    assert [len(r.outputs) for r in low] == [1, 1, 1]
    high = [small.add(f"high{k}", [k + 5] * 3, 2, priority=0) for k in range(2)]
    text = small.add("text", list(range(8)), 1, priority=2)
    small.step()
    assert [len(r.outputs) for r in (*high, *low)] == [1, 1, 2, 2, 1]
    assert text.num_computed == 0
    small.step()
    assert {r.state for r in high} == {RequestState.FINISHED}
    assert [len(r.outputs) for r in low] == [3, 3, 1]
    small.step()  # nothing is more urgent now
    assert [len(r.outputs) for r in low] == [4, 4, 2]
    small.run()
    assert low[2].outputs == continuation([3], 9)


@pytest.mark.parametrize("policy", ["fair", "fair_priority"])
def test_who_floods_gets_few_rows_beside_who_was_served_less(policy):
    small = Small(policy=policy, num_pages=64, max_num_seqs=8, rows_beside_less_served=2)
    flood = [small.add(f"flood{k}", [k + 1], 12, client="flood") for k in range(5)]
    small.step()
    assert [len(r.outputs) for r in flood] == [1] * 5  # nobody else is there
    other = small.add("other", [40, 41, 42], 3, client="other")
    small.step()  # lets the other client in; what runs already was served more
    late = small.add("late", list(range(6)), 1, client="flood")
    before = [len(r.outputs) for r in flood]
    small.step()
    assert sum(len(r.outputs) for r in flood) == sum(before) + 2
    assert late.num_computed <= 2
    small.step()
    assert other.state is RequestState.FINISHED
    small.step()
    assert sum(len(r.outputs) for r in flood) >= sum(before) + 2 + 2 + 4
    small.run()
    assert flood[4].outputs == continuation([5], 12)


def test_a_policy_that_is_not_fair_binds_no_client():
    small = Small(policy="fcfs", max_num_seqs=8, rows_beside_less_served=1)
    small.add("a", [1], 3, client="a")
    small.step()
    requests = [small.add(name, [2], 3, client=name) for name in "bcd"]
    small.step()
    assert [len(r.outputs) for r in requests] == [1, 1, 1]
    small.run()


def test_other_policies_do_not_look_at_who_is_urgent():
    small = Small(policy="fair", rows_beside_urgent=0)
    low, high = small.add("low", [1], 3, priority=1), small.add("high", [2], 3, priority=0)
    small.step()
    assert len(low.outputs) == len(high.outputs) == 1
    small.run()


def test_equal_priority_takes_no_place():
    small = Small(policy="priority", max_num_seqs=1)
    small.add("a", [1, 2, 3], 5, priority=1)
    small.step()
    small.add("b", [4, 5, 6], 2, priority=1)
    small.run()
    assert small.finished == ["a", "b"]


def test_a_preempted_request_comes_before_new_ones():
    small = Small(num_pages=5, page_size=4, watermark_fraction=0)
    small.add("a", list(range(7)), 8)
    preempted = small.add("b", list(range(20, 27)), 8)
    while not preempted.num_preemptions:
        small.step()
    late = small.add("c", [50, 51], 1)
    while late.state is RequestState.WAITING:
        assert preempted.state is RequestState.PREEMPTED
        small.step()
    assert preempted.state is RequestState.RUNNING
    small.run()


def test_victim_is_the_lowest_priority_then_the_latest():
    small = Small(num_pages=6, page_size=4, watermark_fraction=0)
    requests = [
        small.add(name, [ord(name)] * 7, 6, priority=priority)
        for name, priority in (("a", 1), ("b", 0), ("c", 0))
    ]
    small.run()
    assert [r.num_preemptions > 0 for r in requests] == [True, False, False]


def test_fair_shares_between_clients():
    """One client floods; the other one's requests still get half of the tokens."""
    small = Small(policy="fair", max_num_seqs=1, num_pages=16)
    for number in range(12):
        small.add(f"flood-{number}", [number, 1, 2], 4, client="flood")
    for number in range(4):
        small.add(f"other-{number}", [number, 3, 4], 4, client="other")
    small.run()
    first = [name.split("-")[0] for name in small.finished[:8]]
    assert first.count("other") == 4
    fcfs = Small(max_num_seqs=1, num_pages=16)
    for number in range(12):
        fcfs.add(f"flood-{number}", [number, 1, 2], 4, client="flood")
    fcfs.add("other-0", [1, 3, 4], 4, client="other")
    fcfs.run()
    assert fcfs.finished[-1] == "other-0"


def test_staying_away_saves_no_turns():
    small = Small(policy="fair", max_num_seqs=1, num_pages=16)
    small.add("early", [1, 2], 1, client="late")
    small.run()
    for number in range(4):
        small.add(f"busy-{number}", [number, 1, 2], 4, client="busy")
    for _ in range(8):
        small.step()
    for number in range(3):
        small.add(f"late-{number}", [number, 5, 5], 4, client="late")
    small.run()
    order = [name.split("-")[0] for name in small.finished[1:]]
    assert order.index("busy", order.index("late")) < len(order) - 1
    assert order[:5].count("late") <= 2


def test_an_output_token_costs_twice_an_input_token():
    small = Small(policy="fair")
    small.add("a", [1, 2, 3, 4, 5], 3, client="x")
    small.run()
    assert small.policy.counters["x"] == 5 + 2 * 3


def test_longest_cached_start_goes_first_and_ageing_bounds_the_wait():
    for ageing, expected in ((1e9, "hit"), (3.0, "miss")):
        small = Small(policy="prefix", max_num_seqs=1, num_pages=16, ageing_seconds=ageing)
        small.add("warm", list(range(9)), 1)
        small.run()
        small.add("busy", [90, 91, 92], 6)
        small.step()
        small.add("miss", [60, 61, 62, 63, 64], 1)
        small.add("hit", [*range(8), 70], 1)
        small.run()
        assert small.finished[2] == expected


def test_a_cached_start_is_not_computed_again():
    small = Small(num_pages=32)
    prompt = list(range(13))
    small.add("a", prompt, 2)
    small.run()
    rows = small.runner.num_rows
    second = small.add("b", prompt, 2)
    small.run()
    assert second.num_cached == 12
    assert small.runner.num_rows - rows == 2
    assert second.outputs == continuation(prompt, 2)


def test_running_requests_share_a_start_too():
    small = Small(num_pages=32, max_num_batched_tokens=20)
    prompt = list(range(12))
    small.add("a", [*prompt, 50], 9)
    small.step()
    second = small.add("b", [*prompt, 60], 3)
    small.step()
    assert second.num_cached == 12
    small.run()
    assert second.outputs == continuation([*prompt, 60], 3)


def test_important_text_stays_in_the_cache():
    small = Small(num_pages=8, page_size=4)
    for priority, start in ((0, 0), (5, 20)):
        small.add(f"p{priority}", list(range(start, start + 9)), 1, priority=priority)
        small.run()
    small.add("filler", list(range(40, 62)), 1, priority=5)
    small.run()
    assert len(small.tree.peek(list(range(8)))) == 2
    assert len(small.tree.peek(list(range(20, 28)))) < 2


def longest_gap(budget: int) -> float:
    """Return the longest wait between two tokens of one who generates while a prompt comes in."""
    small = Small(
        num_pages=64, executor=TimedExecutor, row_seconds=0.01, max_num_batched_tokens=budget
    )
    talker = small.add("talker", [1, 2, 3], 30)
    times = []
    for step in range(200):
        if step == 5:
            small.add("long", list(range(90)) * 2, 4)
        before = talker.num_new
        small.step()
        if talker.num_new > before:
            times.append(small.clock())
        if not len(small.batch):
            break
    assert len(times) == 30
    return float(np.diff(times).max())


def test_chunks_bound_the_wait_of_those_who_generate():
    assert longest_gap(16) <= 0.16 + 1e-9
    assert longest_gap(256) >= 1.8


def test_siblings_share_the_prompt_and_copy_on_write():
    small = Small(num_pages=32)
    prompt = list(range(10))
    first = small.add("a", prompt, 4)
    siblings = [
        small.add(f"a/{number}", prompt, 4, parent="a", params=SamplingParams(max_tokens=4))
        for number in (1, 2)
    ]
    small.step()
    small.step()
    assert [s.num_computed for s in siblings] == [10, 10]
    tables = [first.pages, *(s.pages for s in siblings)]
    assert len({table[0] for table in tables}) == len({table[1] for table in tables}) == 1
    assert len({table[2] for table in tables}) == 3
    assert small.runner.num_rows == 10 + 1 + 2
    small.run()
    assert first.outputs == continuation(prompt, 4)


def test_a_sibling_shares_only_its_own_prompt():
    """Its parent may be gone and the id taken by another text."""
    small = Small(num_pages=32, max_num_seqs=1)
    small.add("a", list(range(10)), 1)
    sibling = small.add("a/1", list(range(10)), 4, parent="a")
    small.step()
    small.limits = small.batch.limits = Limits(max_num_seqs=2, max_num_batched_tokens=16)
    small.batch.pause(sibling)
    small.add("a", list(range(50, 60)), 8)
    small.step()
    small.batch.resume("a/1")
    small.run()
    assert sibling.outputs == continuation(list(range(10)), 4)


def test_a_step_costs_what_its_rows_and_contexts_say():
    small = Small(num_pages=64, max_num_batched_tokens=64)
    small.executor = small.runner.executor = TimedExecutor(SHAPE, small.clock.advance, 1, 0.5, 0.25)
    small.add("a", [1, 2, 3], 2)
    small.add("b", [4] * 5, 2)
    small.step()
    assert small.clock() == 1 + 0.5 * 8 + 0.25 * (3 * 3 + 5 * 5)
    assert small.executor.is_timed


def test_logits_that_are_no_numbers_are_refused():
    class Broken(EchoExecutor):
        def forward(self, rows, pool):
            return super().forward(rows, pool) * np.float32("nan")

    small = Small(executor=Broken)
    request = small.add("a", [1, 2, 3], 2)
    told = r"logits are NaN \(kv_dtype is fp32\); check the weights"
    with pytest.raises(CheckpointError, match=told):
        small.step()
    small.batch.finish(request, "cancelled")
    assert small.pool.num_free == small.pool.num_pages


def test_deadline_ends_a_request_with_what_it_has():
    small = Small()
    late = small.add("late", [1, 2, 3], 10, deadline=6.0)
    never = small.add("never", list(range(14)), 3, deadline=0.0)
    small.run()
    assert late.finish_reason == never.finish_reason == "deadline"
    assert never.outputs == []
    assert late.outputs == continuation([1, 2, 3], len(late.outputs))
    assert 0 < late.num_new < 10


def test_same_tokens_whatever_runs_beside_and_whatever_is_preempted():
    params = SamplingParams(temperature=1.5, max_tokens=8)
    prompts = {name: [ord(name)] * 5 for name in "abcdef"}
    alone = {}
    for number, (name, prompt) in enumerate(prompts.items()):
        small = Small(num_pages=64)
        alone[name] = small.add(name, prompt, 8, params=params)
        alone[name].key = number
        small.run()
    for preemption in ("recompute", "swap"):
        small = Small(num_pages=7, preemption=preemption, watermark_fraction=0)
        together = {
            name: small.add(name, prompt, 8, params=params) for name, prompt in prompts.items()
        }
        for number, request in enumerate(together.values()):
            request.key = number
        small.run()
        assert sum(r.num_preemptions for r in together.values()) > 0
        assert {n: r.outputs for n, r in together.items()} == {
            n: r.outputs for n, r in alone.items()
        }
    assert len({tuple(r.outputs) for r in alone.values()}) == len(alone)


def test_bad_requests_and_limits_are_refused():
    small = Small(num_pages=2, page_size=4)
    with pytest.raises(CapacityError, match=r"may grow to 10 tokens, 3 pages of 4, and the cache"):
        small.add("a", [1] * 8, 2)
    small.add("a", [1] * 8, 1)
    with pytest.raises(SettingsError, match=r"id 'a' is in use.*an id of its own"):
        small.add("a", [1], 1)
    with pytest.raises(SettingsError, match=r"No unfinished request 'b'; give"):
        small.batch.get("b")
    with pytest.raises(SettingsError, match=r"Request 'a' is not paused; pause"):
        small.batch.resume("a")
    with pytest.raises(CapacityError, match=r"3 pages of 4 tokens are needed"):
        small.batch.borrow(3)
    for values, says in (
        ({"max_num_seqs": 0}, "max_num_seqs=0, expected at least 1"),
        ({"max_num_seqs": 9, "max_num_batched_tokens": 8}, "less than max_num_seqs=9.*raise it"),
        ({"watermark_fraction": 1.0}, "watermark_fraction=1.0; give 0 or more"),
        ({"rows_beside_urgent": -1}, "rows_beside_urgent=-1, expected at least 0"),
        ({"rows_beside_less_served": 0}, "rows_beside_less_served=0, expected at least 1"),
        ({"preemption": "drop"}, "No preemption 'drop'; choose"),
    ):
        with pytest.raises(SettingsError, match=says):
            Limits(**values)
    with pytest.raises(SettingsError, match=r"Unknown runtime policy 'fast'.*fcfs"):
        Small(policy="fast")
