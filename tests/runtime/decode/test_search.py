"""Trees beside each other and beside requests: who fails, fails alone; who asks, is answered."""

import threading
import time
from typing import ClassVar

import pytest

from naive import tokens_of
from runtime.decode.scripted import Hasty, Scripted
from runtime.decode.toy import PROMPT, ToyExecutor, answers, begin, searched
from runtime.engines import Small, continuation
from treadle.core.errors import CapacityError, DataError, SettingsError
from treadle.core.method import Control
from treadle.core.result import Figure
from treadle.page.figures import draw
from treadle.runtime import LLM, SamplingParams
from treadle.runtime.decode.actions import Append, Branch, Child, Finish, Prune
from treadle.runtime.decode.base import Controller, TreeWalk
from treadle.runtime.decode.methods.beam import Beam
from treadle.runtime.decode.methods.best_of import BestOf
from treadle.runtime.decode.tree import NodeState
from treadle.runtime.request import RequestState
from treadle.runtime.scoring import RuntimeScorer

TEXT = tokens_of(1, 40, seed=4)[0].tolist()


class Does(Controller):
    """Do what a function says."""

    name: ClassVar[str] = "does"
    paper = Control("a test")
    act: object = None

    def start(self, around):
        return _DoesWalk(self.act)


class _DoesWalk(TreeWalk):
    def __init__(self, act):
        self._act = act

    def step(self, tree, logits):
        return self._act(tree, logits)


class Eager(Does):
    name: ClassVar[str] = "eager"
    waits: ClassVar[bool] = False


def run(small, *found):
    for _ in range(500):
        if all(one.is_done for one in found) and not len(small.batch):
            return
        small.step()
    raise AssertionError("nothing ends")


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda tree, logits: [], r"moved none of the 1 leaves, and no other one runs; mend its"),
        (lambda tree, logits: [Append(9, [1])], r"moves leaf 9, which is unknown; mend its step"),
        (lambda tree, logits: [Append(0, [1]), Prune(0)], r"leaf 0, which is moved already"),
        (lambda tree, logits: [Append(0, [])], r"gives leaf 0 the tokens \[\].*at least"),
        (lambda tree, logits: [Append(0, [97])], r"the tokens \[97\].*each of them 0 to 96"),
        (lambda tree, logits: [Branch(0, [])], r"forks leaf 0 into 0 branches; .* or prune it"),
        (
            lambda tree, logits: [Branch(0, [Child([1]), Child([])])],
            r"gives leaf 0 the tokens \[\]",
        ),
        (lambda tree, logits: 1 / 0, r"division by zero"),
    ],
)
def test_a_controller_that_fails_ends_its_tree_alone(act, message):
    small = Small(num_pages=40)
    other = small.add("other", PROMPT, 9)
    tree = begin(small, Scripted(seed=4, most=3), name="right")
    wrong = begin(small, Does(act=act), name="wrong")
    run(small, tree, wrong)
    assert tree.error is None
    assert other.outputs == continuation(PROMPT, 9)
    with pytest.raises((SettingsError, ZeroDivisionError), match=message):
        raise wrong.error
    assert not wrong.requests
    small.tree.clear()
    assert small.pool.num_free == 40


def test_a_fork_beyond_the_cache_ends_its_tree_alone():
    small = Small(num_pages=12, max_num_seqs=3)

    def act(tree, logits):
        return [Branch(leaf, [Child([1]), Child([2]), Child([3])]) for leaf in logits]

    other = small.add("other", PROMPT, 9)
    found = begin(small, Does(act=act))
    run(small, found)
    with pytest.raises(
        CapacityError,
        match=r"'tree' forks into 27 branches, which need 28 pages of 4 tokens at once \(what "
        r"they share counted once\), and the cache has 12; raise cache_bytes, or lower the contr",
    ):
        raise found.error
    assert other.outputs == continuation(PROMPT, 9)
    small.tree.clear()
    assert small.pool.num_free == 12


def test_more_branches_than_places_run_in_turns():
    small = Small(num_pages=60, max_num_seqs=2)

    def act(tree, logits):
        assert len(logits) == len(tree.leaves())
        if len(logits) < 9:
            return [Branch(leaf, [Child([1]), Child([2]), Child([3])]) for leaf in logits]
        return [Finish(leaf) for leaf in logits]

    found = begin(small, Does(act=act))
    run(small, found)
    assert found.error is None
    assert len(found.ranked) == 9
    assert small.batch.num_preemptions == 0


def test_leaves_that_are_not_moved_wait_and_come_again():
    seen: list[list[int]] = []

    def act(tree, logits):
        seen.append(sorted(logits))
        if 0 in logits:
            return [Branch(0, [Child([1]), Child([2])])]
        first = min(logits)
        if len(tree.new_tokens(first)) < 4 and tree.node(first).state is not NodeState.FINISHED:
            return [Append(first, [1])]
        return [Finish(leaf) for leaf in logits]

    small = Small(num_pages=40)
    found = begin(small, Does(act=act), 9)
    states = set()
    while not found.is_done:
        small.step()
        states |= {str(node.state) for node in found.tree.leaves()}
    assert found.error is None
    assert seen == [[0], *[[1, 2]] * 4]
    assert states == {"active", "held"}
    assert sorted(answers(found)) == [[1, 1, 1, 1], [2]]
    assert found.num_rows == len(PROMPT) + 4 + 1


def test_who_does_not_wait_is_asked_at_once():
    seen: list[int] = []

    def act(tree, logits):
        seen.append(len(logits))
        if 0 in logits:
            return [Branch(0, [Child([n]) for n in range(6)])]
        return [Finish(leaf) for leaf in logits]

    small = Small(num_pages=40, max_num_seqs=2)
    found = begin(small, Eager(act=act))
    run(small, found)
    assert seen == [1, 2, 2, 2]


def test_branches_end_at_max_tokens_and_what_is_too_much_is_cut():
    def act(tree, logits):
        return (
            [Branch(0, [Child([1, 2]), Child([3, 4, 5, 6, 7])])]
            if 0 in logits
            else [Append(leaf, [8, 9, 10, 11]) for leaf in logits]
        )

    found = searched(Does(act=act), 4)
    assert sorted(answers(found)) == [[1, 2, 8, 9], [3, 4, 5, 6]]
    assert {found.tree.node(n).reason for n in found.ranked} == {"length"}


def test_the_random_machines_meet_every_kind_of_end():
    reasons = set()
    for seed in range(30):
        small = Small(num_pages=60, max_num_seqs=3)
        found = [begin(small, kind(seed=seed), 8, name=kind.__name__) for kind in (Scripted, Hasty)]
        run(small, *found)
        for one in found:
            assert one.error is None
            reasons |= {node.reason for node in one.tree.nodes.values()}
    assert reasons >= {None, "stop", "length", "pruned"}


def test_answers_are_the_same_beside_other_trees():
    small = Small(num_pages=300, max_num_seqs=5, executor=ToyExecutor)
    methods = [Beam(width=3), BestOf(n=4), Beam(width=2, length_penalty=0)]
    together = [begin(small, m, 6, name=str(n), seed=n) for n, m in enumerate(methods)]
    run(small, *together)
    for number, (one, method) in enumerate(zip(together, methods, strict=True)):
        assert answers(one) == answers(searched(method, 6, seed=number))


def test_scorers_of_every_kind(llama, tiny_model):
    llm = LLM(llama, kv_dtype="fp32", cache_bytes=2**20)
    other = LLM(tiny_model("mistral"), kv_dtype="fp32", cache_bytes=2**20)
    best_of = {"method": "best_of", "n": 4}
    given = {"max_tokens": 8, "seed": 2, "ignore_eos": True}
    plain = llm.search(TEXT, best_of, **given)
    own = llm.search(TEXT, best_of, scorer="likelihood", **given)
    port = llm.search(TEXT, best_of, scorer=RuntimeScorer(llm), **given)
    for found in (own, port):
        assert [b.token_ids for b in found.branches] == [b.token_ids for b in plain.branches]
        for one, same in zip(found.branches, plain.branches, strict=True):
            assert one.score == pytest.approx(same.score, abs=1e-4)
    by_other = llm.search(TEXT, best_of, scorer=other, **given)
    assert sorted(b.token_ids for b in by_other.branches) == sorted(
        b.token_ids for b in plain.branches
    )
    assert [b.score for b in by_other.branches] != [b.score for b in plain.branches]
    rule = llm.search(TEXT, best_of, scorer=lambda text: -len(text), **given)
    assert rule.best.score == -min(len(b.text) for b in rule.branches)
    assert rule.best.score >= rule.mean_score
    # A rule may ask the model itself, between two steps.
    asked = SamplingParams(temperature=0, max_tokens=2)
    nested = llm.search(
        TEXT,
        best_of,
        scorer=lambda text: llm.generate([[5, 6]], asked)[0].outputs[0].token_ids[0],
        **given,
    )
    assert len({b.score for b in nested.branches}) == 1
    assert llm.load_report().num_running == 0


def test_the_model_judges_thoughts_by_words(llama):
    llm = LLM(llama, kv_dtype="fp32", cache_bytes=2**20)
    out = llm.search(
        TEXT,
        {
            "method": "tree_of_thoughts",
            "thoughts": 3,
            "width": 2,
            "depth": 2,
            "thought_tokens": 3,
            "ask": "Is {text} right? ",
            "words": {"yes": 1.0, "no": 0.0},
        },
        max_tokens=12,
        seed=1,
    )
    assert all(0 < b.score < 1 for b in out.branches)
    assert out.best.score == max(b.score for b in out.branches)


def test_a_rule_that_fails_is_the_callers(llama):
    llm = LLM(llama, cache_bytes=2**20)
    with pytest.raises(KeyError, match="mine"):
        llm.search(TEXT, "best_of", scorer=lambda text: {}["mine"], max_tokens=3)
    with pytest.raises(DataError, match=r"expected a number for each; mend the scorer"):
        llm.search(TEXT, "best_of", scorer=lambda text: "good", max_tokens=3)
    with pytest.raises(SettingsError, match=r"Found scorer='likely', expected a callable"):
        llm.search(TEXT, "best_of", scorer="likely")
    with pytest.raises(SettingsError, match=r"extract=3, expected a callable"):
        llm.search(TEXT, "self_consistency", extract=3)
    with pytest.raises(SettingsError, match=r"max_tokens=0, expected at least 1"):
        llm.search(TEXT, "beam", max_tokens=0)
    with pytest.raises(SettingsError, match=r"No option 'salt'"):
        llm.search(TEXT, "beam", salt="x")
    report = llm.load_report()
    assert report.num_free_pages + report.num_cached_pages == report.num_pages
    assert not llm._runner.searches._open


def test_a_controller_that_cannot_start_leaves_nothing(llama):
    class Lame(Does):
        def start(self, around):
            raise KeyError("no start")

    llm = LLM(llama, cache_bytes=2**20)
    with pytest.raises(KeyError, match="no start"):
        llm.search(TEXT, Lame())
    assert llm.load_report().num_waiting == 0


def test_branches_may_be_paused_and_cancelled_by_their_names(llama):
    llm = LLM(llama, cache_bytes=2**20)
    from treadle.runtime.trees.asked import AskedSearch

    asked = AskedSearch({"method": "best_of", "n": 3}, 6, 1, True)
    found = llm._searching.begin(TEXT, asked, request_id="mine")
    while len(found.requests) < 3:
        llm.step()
    names = [request.id for request in found.requests]
    assert names[0] == "mine"
    assert all(name.startswith("mine/") for name in names[1:])
    llm.pause(names[1])
    llm.cancel(names[2])
    while len(found.requests) > 1:
        llm.step()
    assert not found.is_done
    llm.resume(names[1])
    while not found.is_done:
        llm.step()
    reasons = sorted(found.tree.node(n).reason for n in found.ranked)
    assert reasons == ["cancelled", "length", "length"]
    assert all(r.state is RequestState.FINISHED for r in found.requests)


def test_the_page_draws_a_tree(llama):
    llm = LLM(llama, cache_bytes=2**21)
    out = llm.search(TEXT, {"method": "tree_of_thoughts", "thought_tokens": 4}, max_tokens=20)
    figure = out.figure()
    assert isinstance(figure, Figure)
    assert figure.kind == "timeline"
    states = {series.x[0] for series in figure.series}
    assert states == {"shared", "pruned", "finished"}
    assert all(s.low[0] <= s.high[0] <= out.num_steps for s in figure.series)
    assert "<svg" in draw(figure, "tree")


def test_ids_mean_branches_and_whole_trees(llama):
    """The first branch that goes on keeps its parent's request, and its own name beside."""
    for name, left in (("t", 0), ("t/1", 2), ("t/3", 2)):
        llm, ended = LLM(llama, cache_bytes=2**22), []

        def cancel(llm=llm, name=name, ended=ended):
            while not any(request.num_new > 3 for request in llm._batch.requests()):
                time.sleep(0.001)
            llm.cancel(name)
            ended.append(name)

        thread = threading.Thread(target=cancel)
        thread.start()
        asked = {"method": "best_of", "n": 3}
        found = llm.search([5, 6, 7], asked, request_id="t", max_tokens=100, ignore_eos=True)
        thread.join()
        reasons = [branch.finish_reason for branch in found.branches]
        assert ended == [name]
        assert reasons.count("length") == left
        assert reasons.count("cancelled") == 3 - left


def test_a_deadline_before_the_first_token_gives_empty_answers(llama):
    llm = LLM(llama, cache_bytes=2**22)
    beams = SamplingParams(n=2, beam_width=2, max_tokens=5)
    (found,) = llm.generate([[5, 6]], beams, timeout_seconds=0)
    assert [(one.token_ids, one.finish_reason) for one in found.outputs] == [([], "deadline")]
    tree = llm.search([5, 6], "best_of", timeout_seconds=0, scorer="likelihood")
    assert tree.best.token_ids == []
    assert tree.best.score == -float("inf")


@pytest.mark.parametrize(
    ("controller", "given"),
    [
        ("beam", {"scorer": len}),
        ("beam", {"extract": str}),
        ("self_consistency", {"scorer": len}),
        ({"method": "tree_of_thoughts", "ask": "{text}?"}, {"scorer": len}),
        ("best_of", {"extract": str}),
    ],
)
def test_what_has_no_effect_is_refused(llama, controller, given):
    with pytest.raises(SettingsError, match=f"{next(iter(given))} has no effect"):
        LLM(llama, cache_bytes=2**22).search([5], controller, **given)


@pytest.mark.parametrize(
    "actions",
    [None, 5, [5], [Append(0, 5)], [Append(0, "a")], [Append(0, [1.5])], [Branch(0, ["a"])]],
)
def test_what_are_no_actions_is_named_with_the_controller(llama, actions):
    with pytest.raises(SettingsError, match=r"The controller 'does' returned .* mend its step"):
        LLM(llama, cache_bytes=2**22).search([5, 6], Does(act=lambda tree, logits: actions))
