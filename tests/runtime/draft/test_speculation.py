"""Every drafter in the engine: answers are what they are without, whatever stands beside."""

from functools import cache

import pytest

from naive import tokens_of
from runtime.draft.texts import admit_all
from runtime.engines import Small, continuation
from treadle.core.errors import SettingsError
from treadle.core.simulate import VirtualClock
from treadle.native.loader import library
from treadle.runtime import LLM, SamplingParams
from treadle.runtime.draft.base import Drafting
from treadle.runtime.draft.proposal import Draft
from treadle.runtime.draft.tables import DRAFTERS
from treadle.runtime.native_step.llama import LlamaStep
from treadle.runtime.request import RequestState
from treadle.runtime.speculate import speculation
from treadle.runtime.speculate.speculation import Speculation
from treadle.runtime.transformers_step.generic import GenericExecutor

EXECUTORS = ["generic", *(["native"] if library("step") is not None else [])]
DRAWN = [
    "suffix",
    {"method": "suffix", "shape": "tree", "offset": 3, "least_chance": 0.02},
    "ngram",
    {"method": "ngram", "shortest": 1},
    "recycling",
]
NEW = 30


@pytest.fixture(scope="module")
def build(tiny_model):
    """Return a function to an engine over a shared executor, whose clock stands still."""

    @cache
    def executor_of(name, architecture):
        folder = tiny_model(architecture)
        is_native = name == "native"
        return LlamaStep(folder, "fp32", 1) if is_native else GenericExecutor.from_folder(folder)

    def make(speculate="none", name=EXECUTORS[-1], architecture="llama", **settings) -> LLM:
        return LLM(
            tiny_model(architecture),
            executor=executor_of(name, architecture),
            clock=VirtualClock(),
            speculate=speculate,
            **{"cache_bytes": 2**19, "kv_dtype": "fp32", **settings},
        )

    return make


@pytest.fixture
def eager(monkeypatch):
    """Let all drafts run that find a place, whether they pay or not."""
    monkeypatch.setattr(speculation, "admitted", admit_all)


def prompts() -> list[list[int]]:
    """Texts that repeat themselves, and one that does not."""
    several = tokens_of(3, 12).tolist()
    return [several[0] * 3, [*several[1], *several[0], *several[1]], several[2]]


def answers(engine: LLM, params: SamplingParams) -> list:
    found = engine.generate(prompts(), params)
    report = engine.load_report()
    assert report.num_free_pages + report.num_cached_pages == report.num_pages
    return [(a.token_ids, a.finish_reason, a.stop_reason) for out in found for a in out.outputs]


PARAMS = {
    "greedy": {"temperature": 0},
    "sampled": {"temperature": 0.4, "seed": 1},
    "several": {"temperature": 0.4, "seed": 1, "n": 3},
    "penalised": {"temperature": 0, "frequency_penalty": 0.4, "repetition_penalty": 1.1},
    "logprobs": {"temperature": 0, "logprobs": 2, "prompt_logprobs": 1},
    "stopped": {"temperature": 0, "stop_token_ids": [7, 30, 55], "min_tokens": 5},
}


@pytest.mark.parametrize("speculate", DRAWN, ids=str)
@pytest.mark.parametrize(
    ("kind", "name"),
    [("greedy", EXECUTORS[0]), *((kind, EXECUTORS[-1]) for kind in PARAMS)],
)
@pytest.mark.usefixtures("eager")
def test_answers_are_those_without(build, speculate, kind, name):
    params = SamplingParams(**{"max_tokens": NEW, "ignore_eos": True, **PARAMS[kind]})
    engine = build(speculate, name)
    assert answers(engine, params) == answers(build(name=name), params)
    assert answers(engine, params) == answers(build(name=name), params)  # of what it has learnt
    drafted = engine.load_report().drafted
    assert drafted.num_tokens >= drafted.num_passes > 0
    assert 0 < drafted.num_accepted <= drafted.num_drafted


@pytest.mark.parametrize("speculate", DRAWN, ids=str)
@pytest.mark.parametrize(
    "settings",
    [
        {"cache_bytes": 2**16, "page_size": 4, "preemption": "swap", "max_num_seqs": 3},
        {"enable_prefix_caching": False, "max_num_batched_tokens": 9, "max_num_seqs": 3},
        {"keep": {"method": "random", "chunk_tokens": 7}, "keep_budget": 12},
        {"architecture": "mistral", "page_size": 3},
        {"architecture": "qwen2", "kv_dtype": "int8"},
        {"policy": "fair", "rows_beside_less_served": 1},
    ],
    ids=lambda settings: next(iter(settings)),
)
@pytest.mark.usefixtures("eager")
def test_answers_are_those_without_in_engines_of_other_settings(build, speculate, settings):
    params = SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True)
    engine = build(speculate, **settings)
    plain = answers(build(**settings), params)
    assert [answers(engine, params) for _ in range(2)] == [plain] * 2
    assert engine.load_report().drafted.num_accepted > 0


@pytest.mark.parametrize("speculate", DRAWN, ids=str)
@pytest.mark.usefixtures("eager")
def test_a_request_moves_between_engines_that_draft(build, speculate):
    params = SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True)
    prompt = prompts()[0]
    first, second = build(speculate), build(speculate)
    (request,) = first.submit(prompt, params, request_id="r")
    while request.num_new < 11:
        first.step()
    first.pause("r")
    second.import_pages(first.export_pages("r"))
    moved = second.commit("r")
    first.forget("r")
    while moved.state is not RequestState.FINISHED:
        second.step()
    assert moved.outputs == build().generate([prompt], params)[0].outputs[0].token_ids


def test_texts_of_another_salt_or_adapter_are_not_drafted_from(build):
    """What a client's drafts show would be seen in the time that its answers take."""
    params = SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True, min_tokens=NEW)
    start = prompts()[2]

    def drafted(engine, salt, prompt):
        (request,) = engine.submit(prompt, params, cache_salt=salt)
        while request.state is not RequestState.FINISHED:
            engine.step()
        engine.close([request])
        return request.num_drafted, request.num_accepted, request.outputs

    for speculate in DRAWN:
        alone = drafted(build(speculate), "mine", start)
        shared = build(speculate)
        drafted(shared, "theirs", start)
        shared._runner.speculation._acceptance.__init__()
        shared._runner.speculation._rest = shared._runner.speculation._last_rest = 0
        assert drafted(shared, "mine", start) == alone
        again = drafted(shared, "mine", start)
        assert again[1] > alone[1]
        assert again[2] == alone[2]


def test_drafts_that_are_never_right_stop(build):
    """A text whose continuations always differ from what is guessed."""

    class Wrong(Drafting):
        asked = 0

        def propose(self, texts, most):
            self.asked += 1
            return [Draft([96, 96], [-1, 0], [0.9, 0.9], "wrong", 9) for _ in texts]

    small = Small(num_pages=300, row_seconds=0.1)
    wrong = Wrong()
    small.runner.speculation = Speculation(wrong, small.clock)
    request = small.add("a", [5, 1, 4], 400)
    small.run()
    assert request.outputs == continuation([5, 1, 4], 400)
    assert wrong.asked > 300
    assert 0 < request.num_drafted < 40


def test_drafts_never_hold_up_prompts():
    small = Small(num_pages=100, max_num_batched_tokens=8, speculate="ngram")
    for number in range(2):
        small.add(str(number), [1, 2, 3] * 2, 40)
    for _ in range(6):
        small.step()
    small.add("late", list(range(1, 30)), 2)
    steps = 0
    while small.batch.get("late").num_computed < 29:
        before = small.runner.num_rows
        small.step()
        steps += 1
        assert small.runner.num_rows - before <= 8
        if steps > 10:
            raise AssertionError("the prompt waits")
    assert steps == 5


def test_prompts_are_read_while_they_are_computed():
    """Not in the step of the first draft, which would take as long as they are long."""
    small = Small(num_pages=100, max_num_batched_tokens=16, speculate="suffix")
    request = small.add("a", list(range(1, 90)), 5)
    small.step()
    small.step()
    drafting = small.runner.speculation._drafting
    (known,) = drafting._known.values()
    assert (known.num_seen, request.num_new) == (89, 0)
    small.run()
    assert request.outputs == continuation(range(1, 90), 5)


def test_outputs_and_reports_say_what_was_drafted(build):
    engine = build("ngram")
    params = SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True)
    answer = engine.generate([prompts()[0]], params)[0].outputs[0]
    assert engine.load_report().drafted.num_drafted == answer.num_drafted_tokens
    again = engine.generate([prompts()[0]], params)[0].outputs[0]
    assert again.num_accepted_tokens > 10
    drafted = engine.load_report().drafted
    assert drafted.num_drafted == answer.num_drafted_tokens + again.num_drafted_tokens
    assert drafted.num_accepted == answer.num_accepted_tokens + again.num_accepted_tokens
    assert drafted.num_tokens == 2 * NEW
    assert drafted.tokens_per_pass == 2 * NEW / drafted.num_passes > 1.2
    assert build().load_report().drafted.tokens_per_pass == 1


def test_what_is_no_drafter_is_refused_before_a_model_is_loaded():
    with pytest.raises(SettingsError, match=r"No drafter 'sufix'.*Did you mean 'suffix'"):
        LLM("nowhere", speculate="sufix")
    with pytest.raises(SettingsError, match="speculate"):
        LLM("nowhere", speculate=3)
    with pytest.raises(SettingsError, match="factor"):
        LLM("nowhere", speculate={"method": "suffix", "factor": -1})


@pytest.mark.parametrize("given", [None, True, ["suffix"], 3])
def test_what_names_no_drafter_is_told_what_does(given):
    with pytest.raises(SettingsError, match=r"mapping of the key 'method'.*'none' for none"):
        LLM("nowhere", speculate=given)
    with pytest.raises(SettingsError, match="give 'none' for none"):
        LLM("nowhere", speculate="")


def test_a_folder_may_have_settings_beside_it(tmp_path):
    found = DRAFTERS.resolve({"method": str(tmp_path), "most_tokens": 3})
    assert (found.name, found.path, found.most_tokens) == ("model", str(tmp_path), 3)
    with pytest.raises(SettingsError, match="Did you mean 'suffix'"):
        DRAFTERS.resolve({"method": "sufix", "factor": 2.0})
