"""What the Python door takes and refuses: forms of prompts, types of arguments, vLLM's names."""

import copy
import logging
import pickle
import shutil

import numpy as np
import pytest
import torch
from pydantic import BaseModel

import treadle.runtime
from treadle.core.errors import CapacityError, CheckpointError, DataError, SettingsError
from treadle.runtime import LLM, SamplingParams, StructuredOutputs
from treadle.runtime.transformers_step.generic import GenericExecutor

GREEDY = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
IDS = [5, 6, 7]


@pytest.fixture(scope="module")
def executor(llama):
    return GenericExecutor.from_folder(llama)


@pytest.fixture(scope="module")
def engine(llama, executor):
    return LLM(llama, executor=executor, cache_bytes=2**20)


@pytest.mark.parametrize(
    "prompt",
    [
        tuple(IDS),
        range(5, 8),
        np.array(IDS),
        np.array(IDS, np.uint16),
        list(np.array(IDS)),
        torch.tensor(IDS),
        {"prompt_token_ids": IDS},
        {"prompt_token_ids": np.array(IDS)},
    ],
    ids=str,
)
def test_token_ids_come_in_many_forms(engine, prompt):
    (expected,) = engine.generate([IDS], GREEDY)
    for prompts in (prompt, [prompt]):
        (out,) = engine.generate(prompts, GREEDY)
        assert (out.prompt, out.prompt_token_ids) == (None, IDS)
        assert out.outputs == expected.outputs
    np.testing.assert_array_equal(engine.embed(prompt), engine.embed([IDS]))
    assert len(engine.generate([prompt, "a", {"prompt": "b"}], GREEDY)) == 3


def test_a_text_may_be_a_mapping(engine):
    (out,) = engine.generate({"prompt": "def f"}, GREEDY)
    (plain,) = engine.generate("def f", GREEDY)
    assert (out.prompt, out.outputs) == ("def f", plain.outputs)


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ([1.5, 2], r"Token 0 of the prompt is 1.5 \(float\), expected a whole number; give token"),
        ([2, True], r"Token 1 of the prompt is True \(bool\)"),
        ([[1, None]], r"Token 1 of the prompt is None"),
        ([None], r"Token 0 of the prompt is None"),
        (np.array([1.0, 2.0]), r"Token 0 of the prompt is 1.0 \(float\)"),
        (torch.tensor([[1, 2]]), r"token ids in 2 dimensions, expected one; give a list"),
        ([["a", "b"]], r"Token 0 of the prompt is 'a' \(str\)"),
        (b"abc", r"Found b'abc' \(bytes\) as a prompt, expected a text or a list of token ids"),
        ([b"abc"], r"Found b'abc' \(bytes\) as a prompt"),
        (None, r"Found None \(NoneType\) as prompts, expected a text, token ids, or a list"),
        ((text for text in ("a", "b")), r"\(generator\) as prompts.*list\(\.\.\.\) does so"),
        ({"text": "a"}, r"keys \['text'\], expected 'prompt' \(text\) or 'prompt_token_ids'; give"),
        ({"prompt": [1]}, r"Found \[1\] \(list\) under 'prompt', expected a text"),
        ({"prompt_token_ids": "a"}, r"under 'prompt_token_ids', expected a list of token ids"),
        ("a\ud800b", r"Character 1 of the prompt is '\\ud800', half of a surrogate pair.*decode"),
    ],
)
def test_other_prompts_are_refused(engine, prompt, says):
    for ask in (engine.generate, engine.embed):
        with pytest.raises(DataError, match=says):
            ask(prompt)
    assert engine.load_report().num_waiting == 0


def test_nothing_asked_is_nothing_answered(engine):
    assert engine.generate([]) == []
    assert engine.chat([]) == []
    assert engine.embed([]).shape == (0, 64)


def test_an_embedding_takes_the_whole_context(engine):
    assert engine.embed([[5] * 128]).shape == (1, 64)
    with pytest.raises(
        DataError, match=r"has 129 tokens, and the model's context of 128 must hold "
    ):
        engine.embed([[5] * 129])


def test_a_long_text_is_refused_without_a_second_voice(engine, caplog):
    with caplog.at_level(logging.WARNING), pytest.raises(DataError, match="shorten it"):
        engine.generate("word " * 3000)
    assert "longer than the specified maximum" not in caplog.text


@pytest.mark.parametrize(
    "messages", [{"role": "user", "content": "a"}, "hello", [[]], ["a"], 5, [[{"role": "a"}, "b"]]]
)
def test_what_is_no_conversation_is_refused(engine, messages):
    with pytest.raises(DataError, match=r'as a conversation.* give \[\{"role": "user"'):
        engine.chat(messages)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"priority": "x"}, "priority='x', expected a whole number"),
        ({"priority": 1.5}, "priority=1.5, expected a whole number"),
        ({"timeout_seconds": "x"}, "timeout_seconds='x', expected a number"),
        ({"timeout_seconds": -1}, "timeout_seconds=-1, expected at least 0"),
        ({"client": 5}, "client=5, expected a text"),
        ({"cache_salt": 5}, "cache_salt=5, expected a text"),
        ({"request_id": 5}, "request_id=5, expected a text"),
        ({"adapter": 5}, "adapter=5, expected a text"),
        ({"sampling_params": {"n": 1}}, r"sampling_params=\{'n': 1\}, expected SamplingParams"),
        ({"sampling_params": [5]}, r"sampling_params=5, expected SamplingParams"),
        ({"temperature": 0}, r"temperature is a sampling parameter; give it inside of Sampling"),
        ({"prioriti": 0}, "No option 'prioriti' of a request. Did you mean 'priority'"),
    ],
)
def test_arguments_of_another_type_are_refused(engine, options, says):
    with pytest.raises(SettingsError, match=says):
        engine.generate("a", **options)
    assert engine.load_report().num_waiting == 0
    assert len(engine.generate(["a", "b"], GREEDY)) == 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"page_size": 0}, "page_size=0, expected at least 1"),
        ({"page_size": 1.5}, "page_size=1.5, expected a whole number"),
        ({"cache_bytes": "1GX"}, "cache_bytes='1GX'. The size '1GX' cannot be read.*24GiB"),
        ({"cache_bytes": 2.5}, "cache_bytes=2.5, expected a whole number"),
        ({"cache_bytes": True}, "cache_bytes=True, expected a whole number"),
        ({"kv_dtype": "fp8"}, r"No kv_dtype 'fp8'. Did you mean 'fp32'"),
        ({"preemption": "drop"}, r"No preemption 'drop'. Choose one of: recompute, swap"),
        ({"policy": "fair_prio"}, r"Unknown runtime policy 'fair_prio'. Did you mean 'fair_pr"),
        (
            {"max_num_sequences": 9},
            r"No setting 'max_num_sequences' .*'max_num_seqs'",
        ),
        ({"max_num_seqs": 2.5}, "max_num_seqs=2.5, expected a whole number"),
        ({"max_num_batched_tokens": "9"}, "max_num_batched_tokens='9', expected a whole number"),
        ({"num_threads": 0}, "num_threads=0, expected at least 1"),
        ({"num_threads": -1}, "num_threads=-1, expected at least 1"),
        ({"num_threads": 2.5}, "num_threads=2.5, expected a whole number"),
        ({"ageing_seconds": -1}, "ageing_seconds=-1, expected at least 0"),
        ({"seed": "a"}, "seed='a', expected a whole number"),
        ({"watermark_fraction": "a"}, "watermark_fraction='a', expected a number"),
        ({"watermark_fraction": float("nan")}, "watermark_fraction=nan, expected a finite"),
        ({"kv_dtype": 8}, "kv_dtype=8, expected a text"),
        ({"weights": 8}, "weights=8, expected a text"),
        ({"policy": 8}, "policy=8, expected a text"),
        ({"enable_prefix_caching": "no"}, "enable_prefix_caching='no', expected True or False"),
        ({"adapters": ["x"]}, r"adapters=\['x'\], expected a mapping of names to folders"),
        ({"adapters": {"x": 5}}, "the adapter's folder=5, expected a path"),
    ],
)
def test_settings_of_another_type_are_refused(llama, executor, options, says):
    with pytest.raises(SettingsError, match=says):
        LLM(llama, **{"executor": executor, "cache_bytes": 2**20, **options})


def test_a_path_is_a_path(executor, llama, tmp_path):
    with pytest.raises(SettingsError, match="path=None, expected a folder, a GGUF file or a hub"):
        LLM(None)
    with pytest.raises(CapacityError, match=r"more than the \d+ bytes of memory that are free"):
        LLM(llama, executor=executor, cache_bytes=10**15)
    (tmp_path / "model.gguf").touch()
    with pytest.raises(
        CheckpointError, match=r"no config.json, but GGUF files; give .*model.gguf'"
    ):
        LLM(tmp_path)


def test_names_of_vllm(engine):
    (out,) = engine.generate("a", sampling_params=GREEDY)
    assert out.finished
    assert engine.get_tokenizer() is engine.prompts.tokenizer
    (request,) = engine.submit("a", sampling_params=GREEDY)
    assert not engine.output([request]).finished
    assert {"LLM", "SamplingParams"} <= set(dir(treadle.runtime))


def test_a_class_of_pydantic_is_a_schema():
    class Person(BaseModel):
        name: str

    found = StructuredOutputs(json=Person)
    assert found == StructuredOutputs(json=Person.model_json_schema())
    assert SamplingParams.from_dict(SamplingParams(structured_outputs=found).to_dict())


@pytest.mark.parametrize("travel", [pickle.dumps, copy.deepcopy])
def test_an_engine_does_not_travel(engine, travel):
    with pytest.raises(SettingsError, match=r"LLM cannot be pickled or copied; give its folder"):
        travel(engine)


def test_a_conversation_is_text_as_well(llama, executor, tmp_path):
    folder = shutil.copytree(llama, tmp_path / "chat")
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    talks = LLM(folder, executor=executor, cache_bytes=2**20)
    (out,) = talks.chat(({"role": "user", "content": "hi"},), GREEDY)
    assert len(out.outputs[0].token_ids) == 4
    with pytest.raises(DataError, match="surrogate"):
        talks.chat([{"role": "user", "content": "\udc00"}])
