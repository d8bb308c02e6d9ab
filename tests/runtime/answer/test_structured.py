"""Answers in a given form, from models of random weights: without a mask they are noise."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from naive import tokens_of
from treadle.core.errors import DataError, SettingsError
from treadle.model import tiny
from treadle.runtime import LLM, SamplingParams, StructuredOutputs
from treadle.runtime.answer.constraint import Grammars
from treadle.runtime.answer.outputs import CompletionOutput
from treadle.runtime.answer.sample import choose
from treadle.runtime.request import Request, RequestState
from treadle.runtime.transformers_step.generic import GenericExecutor

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["cat", "dog"]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}
ODD = ['a"b', "c\\d", "e\nf", "é✓", "/x/ | y", "yes"]
SUM = 'start: term ("+" term){0,3}\nterm: /[0-9]{1,2}/'
GBNF = 'root ::= pair "!"\npair ::= [a-c] [x-z]'


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny llama with a tokenizer, and room enough for an answer."""
    made = tmp_path_factory.mktemp("talker")
    tiny.build("llama", made, max_position_embeddings=512)
    tiny.tokenizer(made)
    return made


@pytest.fixture(scope="module")
def executor(folder):
    return GenericExecutor.from_folder(folder)


def make(folder, executor, **settings) -> LLM:
    return LLM(folder, executor=executor, **{"cache_bytes": 2**21, "kv_dtype": "fp32", **settings})


@pytest.fixture
def llm(folder, executor) -> LLM:
    return make(folder, executor)


def asked(seed: int | None = 0, max_tokens: int = 200, **form) -> SamplingParams:
    """Settings for a form; without a seed greedy ones."""
    how = {"temperature": 0} if seed is None else {"seed": seed, "temperature": 1.5}
    return SamplingParams(
        max_tokens=max_tokens, structured_outputs=StructuredOutputs(**form), **how
    )


def prompts(count: int) -> list[list[int]]:
    return [tokens_of(1, 5 + place, seed=place)[0].tolist() for place in range(count)]


def only(found) -> CompletionOutput:
    (request,) = found
    (out,) = request.outputs
    return out


@pytest.mark.parametrize("seed", [None, 0, 1, 2, 3, 4])
def test_json_keeps_its_schema(llm, seed):
    out = only(llm.generate("Who?", asked(seed, json=PERSON)))
    value = json.loads(out.text)
    assert list(value) == ["name", "age", "kind"]
    assert isinstance(value["name"], str)
    assert len(value["name"]) <= 8
    assert isinstance(value["age"], int)
    assert 0 <= value["age"] <= 150
    assert value["kind"] in ("cat", "dog")
    assert out.finish_reason == "stop"
    assert out.stop_reason is None


def test_blanks_between_the_parts_have_an_end(llm):
    """Of a form that allows blanks anywhere a model of noise may write nothing else."""
    for seed in range(6):
        text = only(llm.generate("x", asked(seed, json=json.dumps(PERSON)))).text
        outside = re.sub(r'"(\\.|[^"\\])*"', "S", text)
        assert not re.search(r"\s\s", outside)


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
@pytest.mark.parametrize("regex", [r"\d{3}-[a-z]{2,5}", r"(yes|no)(, sir)?", r"[A-Fé]{4,9}"])
def test_the_whole_answer_matches_a_regex(llm, regex, seed):
    out = only(llm.generate("x", asked(seed, regex=regex)))
    assert re.fullmatch(regex, out.text)
    assert out.finish_reason == "stop"


def test_choices_are_members(llm):
    params = [asked(seed, choice=ODD) for seed in range(40)]
    found = {out.outputs[0].text for out in llm.generate(["x"] * 40, params)}
    assert found <= set(ODD)
    assert len(found) > 2


@pytest.mark.parametrize("text", ODD)
def test_any_text_can_be_a_choice(llm, text):
    out = only(llm.generate("x", asked(0, choice=[text])))
    assert (out.text, out.finish_reason) == (text, "stop")


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_grammars_of_lark_and_of_gbnf(llm, seed):
    sum_, pair = llm.generate(["x", "y"], [asked(seed, grammar=SUM), asked(seed, grammar=GBNF)])
    assert re.fullmatch(r"\d{1,2}(\+\d{1,2}){0,3}", sum_.outputs[0].text)
    assert re.fullmatch(r"[a-c][x-z]!", pair.outputs[0].text)


def test_without_a_form_the_model_says_something_else(llm):
    """The tests above would prove nothing of a model that answers like this by itself."""
    params = SamplingParams(temperature=1.5, seed=0, max_tokens=20)
    for text in (out.outputs[0].text for out in llm.generate(["Who?"] * 3, params)):
        assert not re.fullmatch(r"\d{3}-[a-z]{2,5}", text)
        assert not text.startswith("{")


def request_of(params: SamplingParams) -> Request:
    return Request("one", [1, 2], 2, params, 7)


@pytest.mark.parametrize(
    "others",
    [
        {},
        {"top_k": 50},
        {"top_p": 0.5},
        {"min_p": 0.1},
        {"logit_bias": {5: 100.0}},
        {"repetition_penalty": 1.5},
        {"temperature": 5.0},
        {"temperature": 0},
    ],
    ids=lambda o: "-".join(o) or "plain",
)
def test_no_setting_brings_a_forbidden_token_back(others):
    draw = np.random.default_rng(0)
    for turn in range(50):
        logits = draw.normal(size=4000).astype(np.float32) * 3
        allowed = np.zeros(4000, np.bool_)
        allowed[draw.integers(6, 4000, 1 + turn % 5)] = True
        request = request_of(SamplingParams(**{"temperature": 1.0, **others}))
        request.tokens += [turn]
        token = choose(logits, request, frozenset(), allowed)
        assert allowed[token]
        if others.get("temperature") == 0:
            assert logits[token] == logits[allowed].max()


def test_among_allowed_tokens_the_model_decides():
    """What is drawn follows the softmax over the allowed tokens alone."""
    logits = np.log(np.array([0.5, 0.2, 0.2, 0.1], np.float32))
    allowed = np.array([False, True, False, True])
    counts = np.zeros(4)
    request = request_of(SamplingParams(temperature=1.0))
    for key in range(3000):
        request.key = key
        counts[choose(logits, request, frozenset(), allowed)] += 1
    assert counts[0] == counts[2] == 0
    assert abs(counts[1] / 3000 - 2 / 3) < 0.03


def test_the_mask_is_exact(folder, llm):
    """Token by token: a token is allowed exactly if the text with it can still become a choice."""
    tokenizer = llm.prompts.tokenizer
    grammars = Grammars(tokenizer, llm.prompts.eos_tokens, llm.shape.vocab_size)
    constraint = grammars.constraint(StructuredOutputs(choice=["abc", "abd", "x"]))
    written, taken = "", []
    while not constraint.is_complete:
        mask = constraint.allowed()
        for token in range(len(tokenizer)):
            text = tokenizer.decode([token])
            can_follow = text != "" and any(
                choice.startswith(written + text) for choice in ("abc", "abd", "x")
            )
            is_end = token in llm.prompts.eos_tokens
            assert mask[token] == (can_follow and not is_end)
        taken.append(int(np.flatnonzero(mask)[0]))
        written += tokenizer.decode(taken[-1:])
        constraint.follow(taken)
    assert written in ("abc", "abd", "x")


FORMS = [
    {"json": PERSON},
    {"regex": r"[a-z]{3,12}-\d{4}"},
    {"choice": ODD},
    {"grammar": SUM},
    None,
]


def mixed() -> list[SamplingParams]:
    return [
        SamplingParams(temperature=1.0, seed=number, max_tokens=40)
        if form is None
        else asked(number, max_tokens=60, **form)
        for number, form in enumerate(FORMS)
    ]


def tokens(found) -> list[list[int]]:
    return [out.outputs[0].token_ids for out in found]


def test_answers_do_not_depend_on_what_runs_beside(llm):
    together = tokens(llm.generate(prompts(5), mixed()))
    alone = [tokens(llm.generate(p, own))[0] for p, own in zip(prompts(5), mixed(), strict=True)]
    assert together == alone


@pytest.mark.parametrize("preemption", ["recompute", "swap"])
def test_preempted_answers_keep_their_form(folder, executor, preemption):
    texts = [[*prompt, *prompts(1)[0] * 2] for prompt in prompts(5)]
    calm = tokens(make(folder, executor).generate(texts, mixed()))
    # 22 pages of 4 tokens hold any one answer, but not five.
    page_bytes = 2 * 2 * 2 * 4 * 16 * 4
    settings = {"cache_bytes": 22 * page_bytes, "page_size": 4, "watermark_fraction": 0}
    small = make(folder, executor, preemption=preemption, **settings)
    found = small.generate(texts, mixed())
    assert tokens(found) == calm
    assert sum(out.outputs[0].num_preemptions for out in found) > 0


def test_an_answer_moves_in_the_middle_of_its_form(folder, executor):
    here, there = make(folder, executor), make(folder, executor)
    expected = tokens(here.generate(prompts(1), asked(3, json=PERSON)))
    (request,) = here.submit(prompts(1)[0], asked(3, json=PERSON), request_id="moves")
    for _ in range(6):
        here.step()
    assert request.state is RequestState.RUNNING
    here.pause("moves")
    exported = here.export_pages("moves")
    there.import_pages(exported._replace(state=json.loads(json.dumps(exported.state))))
    arrived = there.commit("moves")
    while arrived.state is not RequestState.FINISHED:
        there.step()
    assert [arrived.outputs] == expected


def test_several_answers_to_one_prompt(llm):
    params = SamplingParams(
        n=4, seed=5, temperature=1.5, max_tokens=60, structured_outputs={"regex": "[a-z]{6}"}
    )
    (found,) = llm.generate("x", params)
    texts = [out.text for out in found.outputs]
    assert all(re.fullmatch("[a-z]{6}", text) for text in texts)
    assert len(set(texts)) == 4


def test_stop_strings_and_limits_still_end_an_answer(llm):
    form = StructuredOutputs(regex="[ab]{30}c")
    stop = SamplingParams(
        temperature=1.0, seed=1, stop="ab", structured_outputs=form, max_tokens=40
    )
    out = only(llm.generate("x", stop))
    assert (out.finish_reason, out.stop_reason) == ("stop", "ab")
    assert re.fullmatch("b*a+|b*|a*", out.text)
    out = only(llm.generate("x", asked(1, max_tokens=3, regex="[ab]{30}c")))
    assert out.finish_reason == "length"
    assert len(out.token_ids) == 3


def test_where_an_end_is_allowed_the_model_chooses_it(llm):
    """`a{1,40}` may stop after any letter; the end token is then one of the allowed."""
    eos = next(iter(llm.prompts.eos_tokens))
    params = [
        SamplingParams(
            temperature=1.0, seed=seed, max_tokens=60, structured_outputs={"regex": "a{1,40}"}
        )
        for seed in range(8)
    ]
    found = [out.outputs[0] for out in llm.generate(["x"] * 8, params)]
    assert all(re.fullmatch("a{1,40}", out.text) for out in found)
    assert all(out.finish_reason == "stop" for out in found)
    assert any(out.token_ids[-1] == eos for out in found)
    assert len({out.text for out in found}) > 1


# Settings


@pytest.mark.parametrize(
    "form",
    [
        {"json": PERSON},
        {"json": '{"type": "integer"}'},
        {"regex": "a|b"},
        {"choice": ("a", "b")},
        {"grammar": SUM},
    ],
    ids=lambda f: next(iter(f)),
)
def test_settings_survive_a_round_through_json(form):
    params = SamplingParams(structured_outputs=StructuredOutputs(**form), max_tokens=5)
    plain = json.loads(json.dumps(params.to_dict()))
    assert list(plain["structured_outputs"]) == list(form)
    assert SamplingParams.from_dict(plain) == params
    assert SamplingParams.from_dict(SamplingParams().to_dict()) == SamplingParams()


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({}, "with nothing, expected exactly one of json, regex, choice, grammar"),
        ({"regex": "a", "choice": ["b"]}, "with regex and choice, expected exactly one"),
        ({"json": "{"}, r"structured_outputs.json is no JSON \(.*give a schema"),
        ({"json": [1]}, r"structured_outputs.json=\[1\], expected a schema"),
        ({"json": {"const": object()}}, "holds what JSON cannot express"),
        ({"choice": []}, r"structured_outputs.choice=\[\], expected a list of texts"),
        ({"choice": "ab"}, "structured_outputs.choice='ab', expected a list of texts"),
        ({"choice": ["a", ""]}, "give at least one"),
        ({"regex": ""}, "structured_outputs.regex='', expected a text that is not empty"),
        ({"grammar": 3}, "structured_outputs.grammar=3, expected a text"),
        ({"regexp": "a"}, "No form 'regexp' of an answer.*regex"),
    ],
)
def test_forms_that_are_none(form, message):
    with pytest.raises(SettingsError, match=message):
        SamplingParams(structured_outputs=form)


def test_settings_that_contradict_a_form():
    for name, value in (("ignore_eos", True), ("min_tokens", 2)):
        with pytest.raises(SettingsError, match=f"{name}={value} contradicts structured_outputs"):
            SamplingParams(structured_outputs={"regex": "a"}, **{name: value})


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"json": {"type": "nonsense"}}, "cannot be compiled: .*nonsense.*change what it names"),
        ({"json": {"type": "string", "not": {}}}, r"cannot be compiled: .*\[\"not\"\]"),
        ({"regex": "("}, "structured_outputs.regex='\\(' cannot be compiled: .*unclosed group"),
        ({"regex": "(?=a)b"}, "look-around"),
        ({"grammar": "start: missing"}, "structured_outputs.grammar=.* cannot be compiled"),
        ({"grammar": "root ::= ("}, "structured_outputs.grammar=.* cannot be compiled"),
    ],
)
def test_forms_that_cannot_be_compiled_are_refused_when_asked(llm, form, message):
    with pytest.raises(SettingsError, match=message):
        llm.submit("x", asked(**form))
    assert llm.load_report().num_waiting == 0


def test_without_the_extra_the_error_names_it(llm, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(SettingsError, match=r"pip install 'treadle\[structured\]'"):
        llm.submit("x", asked(regex="a"))


def test_a_model_without_a_tokenizer_has_no_forms(folder, executor, tmp_path):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(folder / name, tmp_path)
    with pytest.raises(DataError, match="has no tokenizer"):
        make(tmp_path, executor).submit([1], asked(regex="a"))


def test_a_vocabulary_that_cannot_write_the_form(folder, llm):
    """The model knows fewer tokens than its tokenizer: what remains cannot write the answer."""
    grammars = Grammars(llm.prompts.tokenizer, llm.prompts.eos_tokens, 2)
    with pytest.raises(
        DataError, match=r"\{'regex': 'abc'\} cannot be kept: no token of the model"
    ):
        grammars.constraint(StructuredOutputs(regex="abc")).allowed()
