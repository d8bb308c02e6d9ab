"""Drafts of answers that have a form: what the form refuses is cut before it runs."""

import pytest

from runtime.draft.texts import admit_all
from treadle.model import tiny
from treadle.runtime import LLM, SamplingParams, StructuredOutputs
from treadle.runtime.answer.constraint import Grammars
from treadle.runtime.draft.proposal import Draft
from treadle.runtime.speculate import speculation
from treadle.runtime.speculate.shapes import allowed_part
from treadle.runtime.transformers_step.generic import GenericExecutor

pytest.importorskip("llguidance")
FORMS = [{"regex": "(ab|ba){3,12}!"}, {"json": {"type": "array", "items": {"type": "integer"}}}]


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Return a function to an engine over a tiny model with a tokenizer."""
    folder = tiny.build("llama", tmp_path_factory.mktemp("forms"), max_position_embeddings=256)
    tiny.tokenizer(folder)
    executor = GenericExecutor.from_folder(folder)
    return lambda **settings: LLM(
        folder, executor=executor, cache_bytes=2**20, kv_dtype="fp32", **settings
    )


@pytest.mark.parametrize(
    "speculate",
    ["ngram", {"method": "suffix", "shape": "tree", "offset": 4}, "recycling"],
    ids=str,
)
def test_drafts_change_no_answer(make, speculate, monkeypatch):
    monkeypatch.setattr(speculation, "admitted", admit_all)
    prompts = [[5, 6, 7, 5, 6], [9, 8, 7, 6]]
    params = [
        SamplingParams(max_tokens=40, seed=n, structured_outputs=form)
        for n, form in enumerate(FORMS)
    ]

    def answers(engine):
        return [out.outputs[0].token_ids for out in engine.generate(prompts, params)]

    plain, engine = answers(make()), make(speculate=speculate)
    assert [answers(engine), answers(engine)] == [plain, plain]
    if speculate != "recycling":  # what the model holds for likely is all refused here
        assert engine.load_report().drafted.num_accepted > 0


def test_a_draft_that_a_form_refuses_is_cut(make):
    llm = make()
    constraint = Grammars(
        llm.prompts.tokenizer, llm.prompts.eos_tokens, llm.shape.vocab_size
    ).constraint(StructuredOutputs(regex="ab(a|b)b"))
    (a,), (b,), (c,) = (llm.prompts.tokenizer(s, add_special_tokens=False).input_ids for s in "abc")
    chain = Draft([a, b, c, b], [-1, 0, 1, 2], [1.0] * 4)
    assert allowed_part(chain, constraint.count_allowed).tokens == [a, b]
    tree = Draft([c, a, c, b, b, a, b], [-1, -1, 0, 1, 3, 3, 4], [1.0] * 7)
    found = allowed_part(tree, constraint.count_allowed)
    assert (found.tokens, found.parents) == ([a, b, b, a, b], [-1, 0, 1, 1, 2])
    assert allowed_part(Draft([], [], []), constraint.count_allowed).tokens == []
