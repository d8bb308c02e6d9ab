"""lm-eval asks the runtime and transformers the same questions and gets the same answers."""

import warnings
from types import SimpleNamespace

import pytest

from treadle.app.lm_eval import TreadleLM
from treadle.core.errors import SettingsError
from treadle.runtime import SamplingParams

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from lm_eval.models.huggingface import HFLM

PLAIN = SamplingParams(max_tokens=3, temperature=0.0, ignore_eos=True)
TEXTS = [
    ("The capital of France is", " Paris"),
    ("The capital of France is", " a town by the sea."),
    ("Water boils at ", "one hundred degrees"),
    ("", "A text that stands alone."),
]


def asked(*args):
    return SimpleNamespace(args=args)


@pytest.fixture(scope="module")
def models(tiny_model):
    folder = tiny_model("llama")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=1)
    return TreadleLM(str(folder), batch_size=4), theirs


def test_likelihoods(models):
    requests = [asked(*pair) for pair in TEXTS]
    found, expected = (model.loglikelihood(requests, disable_tqdm=True) for model in models)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours[0] == pytest.approx(theirs[0], abs=1e-4)
        assert ours[1] == theirs[1]


def test_a_greedy_continuation_is_known_as_one(models):
    ours, _ = models
    output = ours._llm.generate("Once upon a time", PLAIN)[0]
    continuation = output.outputs[0].token_ids
    context = output.prompt_token_ids
    wrong = [*continuation[:-1], (continuation[-1] + 1) % 100]
    scores = ours._loglikelihood_tokens([(None, context, continuation), (None, context, wrong)])
    assert [is_greedy for _, is_greedy in scores] == [True, False]


def test_whole_texts_longer_than_the_context(models):
    text = "Some words that go on and on, longer than the model's context. " * 12
    assert len(models[0].tok_encode(text)) > 2 * models[0].max_length
    short = TreadleLM(models[0]._pretrained, max_length=64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = HFLM(
            pretrained=models[1].pretrained,
            dtype="float32",
            device="cpu",
            batch_size=1,
            max_length=63,
        )
    (found,) = short.loglikelihood_rolling([asked(text)])
    (expected,) = theirs.loglikelihood_rolling([asked(text)], disable_tqdm=True)
    assert found == pytest.approx(expected, rel=1e-5)


def test_answers_end_where_the_task_says(models):
    settings = {"until": ["\n", "e"], "max_gen_toks": 12, "do_sample": False}
    requests = [asked("Question: why?\nAnswer:", dict(settings)) for _ in range(2)]
    found, expected = (model.generate_until(requests, disable_tqdm=True) for model in models)
    # transformers shows signs for the bytes of a character that was cut off.
    assert found == [text.rstrip("�") for text in expected]
    assert all("e" not in text for text in found)


def test_continuations_longer_than_the_context_count_what_fits(models):
    ours, _ = models
    long = ours.tok_encode("word " * 400)
    ((score, _),) = ours._loglikelihood_tokens([(None, long[:5], long)])
    ((expected, _),) = ours._loglikelihood_tokens(
        [(None, long[-ours.max_length :][:1], long[-ours.max_length :][1:])]
    )
    assert score == expected


def test_the_extra_is_named_where_it_is_missing(monkeypatch):
    import importlib
    import sys

    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    module = sys.modules.pop("treadle.app.lm_eval")
    try:
        with pytest.raises(SettingsError, match=r"pip install 'treadle\[eval\]'"):
            importlib.import_module("treadle.app.lm_eval")
    finally:
        sys.modules["treadle.app.lm_eval"] = module
