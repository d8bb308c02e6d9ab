"""What members reply: on this machine, behind a server, and by a naive reading of the logits."""

import asyncio
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from combine.route.prepare.endpoints import completion, endpoint
from deploy.serve.servers import loaded, running
from treadle.combine.route.prepare.base import Asking, PoolQuestion, Vacant
from treadle.combine.route.prepare.local import LocalModel
from treadle.combine.route.prepare.remote import Patience, RemoteModel
from treadle.core.errors import CheckpointError, SettingsError
from treadle.model import tiny
from treadle.runtime import LLM, SamplingParams
from treadle.runtime.client import RefusedError

WRITTEN = PoolQuestion("01", "t", "train", "def f(x):", (" 1",))
CHOICE = PoolQuestion("02", "t", "test", "the sky is", (" blue", " far away", " b"), 1)
GREEDY = Asking(samples=1, temperature=0.0, max_tokens=6, stop="\n", is_chat=False, seed=0)
DRAWN = GREEDY.model_copy(update={"samples": 3, "temperature": 0.8})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build("llama", tmp_path_factory.mktemp("model"), num_hidden_layers=1)


@pytest.fixture(scope="module")
def local(folder: Path) -> LocalModel:
    return LocalModel("here", folder, False)


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "merges.txt"]
)
def test_who_reads_texts_otherwise_is_another_member(name, local, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert LocalModel("elsewhere", copy, False).identity == local.identity
    file = copy / name
    file.write_text(file.read_text() + " " if file.exists() else "{{ messages }}")
    assert LocalModel("here", copy, False).identity != local.identity


async def no_pause(seconds: float) -> None:
    pass


def test_a_choice_is_scored_by_the_likelihood_of_its_tokens(local, folder):
    (found,) = local.replies([CHOICE], GREEDY)
    tokenizer = LLM(folder).get_tokenizer()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    before = len(tokenizer(CHOICE.question).input_ids)
    for answer, value in zip(CHOICE.answers, found.loglikelihoods, strict=True):
        ids = tokenizer(CHOICE.question + answer).input_ids
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0].double()
        total = 0.0
        for place in range(before, len(ids)):
            total += float(torch.log_softmax(logits[place - 1], 0)[ids[place]])
        assert value == pytest.approx(total, rel=2e-4)  # keys and values are float16
    assert found.prompt_tokens == before


def test_whose_logits_are_no_numbers_is_named(folder, monkeypatch):
    local = LocalModel("here", folder, False)
    nothing = np.full((1, 320), np.nan, np.float32)
    monkeypatch.setattr(local._llm.executor, "forward", lambda *_: nothing)
    with pytest.raises(CheckpointError, match=r"'here' cannot answer .* logits are NaN"):
        list(local.replies([WRITTEN], GREEDY))


def test_a_written_answer_is_the_runtimes_with_its_mean_probability(local, folder):
    (found,) = local.replies([WRITTEN], GREEDY)
    params = SamplingParams(max_tokens=6, temperature=0, stop=("\n",), logprobs=0)
    (output,) = LLM(folder).generate(WRITTEN.question, params)
    (answer,) = output.outputs
    assert found.texts == (answer.text,)
    chances = []
    for token, entry in zip(answer.token_ids, answer.logprobs, strict=True):
        chances.append(np.exp(entry[token]))
    assert found.sureness == pytest.approx((sum(chances) / len(chances),))
    assert found.new_tokens == len(answer.token_ids)
    assert found.seconds > 0


def test_a_server_replies_as_the_model_behind_it(local, folder):
    with running(loaded(folder, "there")) as server:
        remote = RemoteModel("r", f"{server.url}/there", Patience(0), concurrency=2)
        for asking in (GREEDY, DRAWN):
            own = list(local.replies([WRITTEN, CHOICE], asking))
            theirs = list(remote.replies([WRITTEN, CHOICE], asking))
            for here, there in zip(own, theirs, strict=True):
                assert there.id == here.id
                assert there.texts == here.texts
                assert there.sureness == pytest.approx(here.sureness, abs=1e-5)
                assert there.loglikelihoods == pytest.approx(here.loglikelihoods, abs=1e-4)
                assert there.new_tokens == here.new_tokens
            assert len(own[0].texts) == asking.samples
        assert len(set(own[0].texts)) > 1
        alone = RemoteModel("r", server.url, Patience(0))
        (found,) = alone.replies([WRITTEN], GREEDY)
        assert found.texts == next(iter(local.replies([WRITTEN], GREEDY))).texts


def test_the_only_model_is_meant_and_several_must_be_named(folder):
    served = [*loaded(folder, "a"), *loaded(folder, "b")]
    with running(served) as server:
        (found,) = RemoteModel("a", f"{server.url}/v1", Patience(0)).replies([WRITTEN], GREEDY)
        assert found.texts
        unnamed = RemoteModel("c", server.url, Patience(0))
        with pytest.raises(Vacant, match=r"serves a, b; write which of them 'c' is"):
            list(unnamed.replies([WRITTEN], GREEDY))


def test_chats_are_asked_as_chats():
    said = []

    def answer(path, body):
        said.append((path, body))
        choice = {
            "index": 0,
            "message": {"content": "1"},
            "logprobs": {"content": [{"logprob": -1.0}]},
        }
        usage = {"prompt_tokens": 3, "completion_tokens": 1}
        return 200, {"choices": [choice], "usage": usage}

    with endpoint(answer) as url:
        asking = GREEDY.model_copy(update={"is_chat": True})
        (found,) = RemoteModel("r", f"{url}/org/m", Patience(0)).replies([WRITTEN], asking)
    assert found.texts == ("1",)
    assert found.sureness == pytest.approx((np.exp(-1),))
    ((path, body),) = said
    assert path == "/v1/chat/completions"
    assert body["model"] == "org/m"
    assert body["messages"] == [{"role": "user", "content": WRITTEN.question}]


def test_what_fails_for_a_moment_is_asked_again_and_ever_more_slowly():
    states, pauses = [503, 429, 200], []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    def answer(path, body):
        status = states.pop(0)
        return status, completion(body, " 1") if status == 200 else {"error": {"message": "busy"}}

    with endpoint(answer) as url:
        (found,) = RemoteModel("r", f"{url}/m", Patience(4, pause)).replies([WRITTEN], GREEDY)
    assert found.texts == (" 1",)
    assert found.sureness == pytest.approx(((np.exp(-0.5) + np.exp(-1.5)) / 2,))
    assert pauses == [0.5, 1.0]


def test_patience_ends():
    pauses, tries = [], []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    async def dead() -> dict:
        tries.append(1)
        raise RefusedError("gone", 0)

    with pytest.raises(RefusedError):
        asyncio.run(Patience(9, pause).keep(dead))
    assert len(tries) == 10
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]

    async def wrong() -> dict:
        tries.append(1)
        raise RefusedError("no such model", 404)

    with pytest.raises(RefusedError):
        asyncio.run(Patience(9, pause).keep(wrong))
    assert len(tries) == 11


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (b"<html>hello</html>", "no JSON object"),
        ({"hello": 1}, "no completion"),
        ({"choices": [{"index": 0}], "usage": {}}, "no completion"),
        ({"choices": "none", "usage": {}}, "no completion"),
        (
            {"choices": [{"index": 0, "text": 5}], "usage": {"completion_tokens": 1}},
            "no completion",
        ),
        ({"choices": [], "usage": {"completion_tokens": 1}}, "0 answers in place of 1"),
    ],
)
def test_rubbish_is_said_to_be_rubbish(found, says):
    with endpoint(lambda path, body: (200, found)) as url:
        remote = RemoteModel("r", f"{url}/m", Patience(1, no_pause))
        with pytest.raises(Vacant, match=says):
            list(remote.replies([WRITTEN], GREEDY))


INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize("posed", [WRITTEN, CHOICE])
@pytest.mark.parametrize("value", [NAN, INF, -INF, 12.18, 0.01])
def test_a_probability_that_is_none_is_rubbish(posed, value):
    def answer(path, body):
        found = completion(body, *[" 1"] * (len(posed.answers) if posed.is_choice else 1))
        found["choices"][0]["logprobs"] = {"token_logprobs": [-0.5, value], "text_offset": [0, 9]}
        return 200, found

    with endpoint(answer) as url, pytest.raises(Vacant, match="logarithm of a probability is"):
        list(RemoteModel("r", f"{url}/m", Patience(0)).replies([posed], GREEDY))


def test_a_probability_that_rounding_carried_above_one_is_one():
    def answer(path, body):
        found = completion(body, " 1")
        found["choices"][0]["logprobs"]["token_logprobs"] = [1e-5, 0.0]
        return 200, found

    with endpoint(answer) as url:
        (found,) = RemoteModel("r", f"{url}/m", Patience(0)).replies([WRITTEN], GREEDY)
    assert found.sureness == (1.0,)


@pytest.mark.parametrize("key", ["completion_tokens", "prompt_tokens"])
@pytest.mark.parametrize("value", [b"-3", b"1e400", b"-1e400", b"NaN", b'"4"', b"1" + b"0" * 400])
def test_a_count_that_is_none_is_rubbish(key, value):
    def answer(path, body):
        found = completion(body, " 1")
        found["usage"][key] = "HERE"
        return 200, json.dumps(found).encode().replace(b'"HERE"', value)

    with endpoint(answer) as url, pytest.raises(Vacant, match=f"{key} is "):
        list(RemoteModel("r", f"{url}/m", Patience(0)).replies([WRITTEN], GREEDY))


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (b"[" * 100_000, "no JSON object"),
        (b'{"choices": [{"index": 1e400}], "usage": {}}', "no completion"),
        ({"data": [5]}, "no models"),
        ({"data": 5}, "no models"),
        ({"data": [{"name": "m"}]}, "no models"),
    ],
)
def test_rubbish_of_any_form_leaves_no_traceback(found, says):
    with endpoint(lambda path, body: (200, found)) as url:
        place = url if says == "no models" else f"{url}/m"
        with pytest.raises(Vacant, match=says):
            list(RemoteModel("r", place, Patience(0)).replies([WRITTEN], GREEDY))


def test_an_endpoint_that_tells_no_likelihoods_has_no_confidence():
    def answer(path, body):
        found = completion(body, " 1")
        del found["choices"][0]["logprobs"]
        return 200, found

    with endpoint(answer) as url:
        (found,) = RemoteModel("r", f"{url}/m", Patience(0)).replies([WRITTEN], GREEDY)
        assert found.sureness == ()
        with pytest.raises(Vacant, match="no completion"):
            list(RemoteModel("r", f"{url}/m", Patience(0)).replies([CHOICE], GREEDY))


def test_an_address_that_is_none():
    with pytest.raises(SettingsError, match="expected an endpoint"):
        RemoteModel("r", "http://", Patience(0))
