"""The Python door: generate, chat, embed, stream, logprobs, and what it refuses."""

import asyncio
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from naive import plain_model
from treadle.core.errors import CapacityError, CheckpointError, DataError, SettingsError
from treadle.runtime import LLM, SamplingParams
from treadle.runtime.transformers_step.generic import GenericExecutor

GREEDY = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
RANDOM = SamplingParams(max_tokens=8, ignore_eos=True, seed=3)
PROMPTS = [[5, 6, 7, 8], [9] * 20, [3, 1, 4, 1, 5, 9, 2, 6]]


@pytest.fixture(scope="module")
def executor(llama):
    return GenericExecutor.from_folder(llama)


@pytest.fixture
def make(llama, executor):
    return lambda **options: LLM(
        llama, **{"executor": executor, "cache_bytes": 2**20, "kv_dtype": "fp32", **options}
    )


def tokens_of(outputs) -> list[list[list[int]]]:
    return [[answer.token_ids for answer in out.outputs] for out in outputs]


def test_importing_the_door_loads_no_torch():
    script = (
        "import sys, treadle.runtime as r; r.SamplingParams(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_text_and_ids_give_the_same(make):
    engine = make()
    (by_text,) = engine.generate("def f(x):", GREEDY)
    (by_ids,) = engine.generate([by_text.prompt_token_ids], GREEDY)
    assert tokens_of([by_text]) == tokens_of([by_ids])
    assert by_text.prompt == "def f(x):"
    decoded = engine.prompts.tokenizer.decode(by_text.outputs[0].token_ids)
    assert by_text.outputs[0].text == decoded


def test_each_prompt_its_own_settings(make):
    params = [GREEDY, SamplingParams(temperature=0, max_tokens=3, ignore_eos=True), GREEDY]
    found = make().generate(PROMPTS, params)
    assert [len(out.outputs[0].token_ids) for out in found] == [8, 3, 8]
    with pytest.raises(SettingsError, match="2 sampling parameters for 3 prompts; give"):
        make().generate(PROMPTS, params[:2])


def test_sampling_depends_on_the_seed_alone(make):
    together = tokens_of(make().generate(PROMPTS, RANDOM))
    alone = [tokens_of(make(max_num_batched_tokens=16).generate([p], RANDOM))[0] for p in PROMPTS]
    small = tokens_of(make(cache_bytes=2**16, seed=5).generate(PROMPTS, RANDOM))
    assert together == alone == small
    free = SamplingParams(max_tokens=8, ignore_eos=True)
    assert tokens_of(make().generate(PROMPTS, free)) == tokens_of(make().generate(PROMPTS, free))
    assert tokens_of(make().generate(PROMPTS, free)) != tokens_of(
        make(seed=1).generate(PROMPTS, free)
    )


def test_several_answers_share_the_prompt(make):
    engine = make()
    params = SamplingParams(n=4, max_tokens=6, ignore_eos=True, seed=1, prompt_logprobs=1)
    (out,) = engine.generate([[9] * 40], params)
    assert [answer.index for answer in out.outputs] == [0, 1, 2, 3]
    assert len({tuple(answer.token_ids) for answer in out.outputs}) > 1
    assert engine.load_report().num_rows == 40 + 3 + 4 * 5
    assert len(out.prompt_logprobs) == 40


def test_logprobs_of_the_end_of_a_prompt_leave_its_start_to_the_cache(make):
    prompt = list(range(3, 53))
    (full,) = make().generate(
        [prompt], SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=1)
    )
    params = SamplingParams(
        temperature=0, max_tokens=1, prompt_logprobs=1, prompt_logprobs_start=45
    )
    engine = make()
    (cold,) = engine.generate([prompt], params)
    rows = engine.load_report().num_rows
    (warm,) = engine.generate([prompt], params)
    assert engine.load_report().num_rows - rows == 50 - 32
    assert warm.outputs[0].num_cached_tokens == 32
    for found in (cold, warm):
        assert found.prompt_logprobs[:45] == [None] * 45
        for entry, expected in zip(
            found.prompt_logprobs[45:], full.prompt_logprobs[45:], strict=True
        ):
            assert entry == pytest.approx(expected, abs=1e-5)
    at_the_end = SamplingParams(
        temperature=0, max_tokens=2, prompt_logprobs=1, prompt_logprobs_start=50
    )
    (none,) = engine.generate([prompt], at_the_end)
    assert none.prompt_logprobs == [None] * 50
    assert len(none.outputs[0].token_ids) == 2


def test_ends_at_end_of_sequence_and_stop_tokens(make):
    (free,) = make().generate(PROMPTS[:1], GREEDY)
    third = free.outputs[0].token_ids[2]
    first = free.outputs[0].token_ids.index(third) + 1
    params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, stop_token_ids=[third])
    (out,) = make().generate(PROMPTS[:1], params)
    answer = out.outputs[0]
    assert answer.token_ids == free.outputs[0].token_ids[:first]
    assert (answer.finish_reason, answer.stop_reason) == ("stop", third)
    engine = make()
    engine._runner.eos_tokens = frozenset({third})
    (out,) = engine.generate(PROMPTS[:1], SamplingParams(temperature=0, max_tokens=8))
    assert (out.outputs[0].finish_reason, out.outputs[0].stop_reason) == ("stop", None)


def test_stops_at_a_string(make):
    (free,) = make().generate("def f(x):", GREEDY)
    text = free.outputs[0].text
    stop = text[3:5]
    (out,) = make().generate(
        "def f(x):", SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, stop=stop)
    )
    assert out.outputs[0].text == text[: text.index(stop)]
    assert (out.outputs[0].finish_reason, out.outputs[0].stop_reason) == ("stop", stop)


def test_ends_where_the_context_ends(make):
    (out,) = make().generate([[7] * 120], SamplingParams(max_tokens=None, ignore_eos=True))
    assert len(out.outputs[0].token_ids) == 8
    assert out.outputs[0].finish_reason == "length"


def test_logprobs_are_those_of_transformers(make, llama):
    params = SamplingParams(
        temperature=0, max_tokens=4, ignore_eos=True, logprobs=3, prompt_logprobs=2
    )
    (out,) = make(max_num_batched_tokens=16).generate([[9, 2, 8] * 9], params)
    text = out.prompt_token_ids + out.outputs[0].token_ids
    with torch.no_grad():
        expected = plain_model(llama)(input_ids=torch.tensor([text])).logits[0].log_softmax(-1)
    found = [*out.prompt_logprobs, *out.outputs[0].logprobs]
    assert found[0] is None
    assert len(found) == len(text)
    for place, entry in enumerate(found[1:], start=1):
        assert len(entry) in (2, 3, 4)
        assert text[place] in entry
        for token, value in entry.items():
            assert abs(value - float(expected[place - 1, token])) < 1e-4
    total = sum(
        e[t] for e, t in zip(out.outputs[0].logprobs, out.outputs[0].token_ids, strict=True)
    )
    assert out.outputs[0].cumulative_logprob == pytest.approx(total)


def test_embedding_is_the_mean_of_the_last_hidden_states(make, llama):
    engine = make(max_num_batched_tokens=16)
    found = engine.embed([[9, 2, 8] * 9, [1, 2, 3]])
    for row, tokens in zip(found, ([9, 2, 8] * 9, [1, 2, 3]), strict=True):
        with torch.no_grad():
            states = plain_model(llama).model(input_ids=torch.tensor([tokens])).last_hidden_state[0]
        np.testing.assert_allclose(row, states.mean(0).numpy(), atol=1e-5)
    assert engine.embed("abc").shape == (1, 64)
    assert engine.load_report().num_free_pages == engine.load_report().num_pages


def test_chat_writes_the_template(make, llama, tmp_path):
    with pytest.raises(DataError, match=r"has no chat template; use generate"):
        make().chat([{"role": "user", "content": "hi"}])
    folder = shutil.copytree(llama, tmp_path / "chat")
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{% if m['content'] == 'refuse' %}{{ raise_exception('no') }}"
        "{% endif %}{{ m['role'] }}:{{ m['content'] }};{% endfor %}"
        "{% if add_generation_prompt %}answer:{% endif %}"
    )
    engine = LLM(folder, cache_bytes=2**20)
    (out,) = engine.chat([{"role": "user", "content": "hi"}], GREEDY)
    (plain,) = engine.generate("user:hi;answer:", GREEDY)
    assert out.prompt_token_ids == plain.prompt_token_ids
    assert tokens_of([out]) == tokens_of([plain])
    with pytest.raises(DataError, match=r"refuses the messages .*give each a role and a content"):
        engine.chat([{"role": "user", "content": "refuse"}])
    assert len(engine.chat([[{"role": "user", "content": "a"}]] * 2, GREEDY)) == 2


def test_streams_run_side_by_side(make):
    engine = make()
    whole = engine.generate(PROMPTS, GREEDY)

    async def read(prompt):
        pieces = [piece async for piece in engine.stream(prompt, GREEDY)]
        assert [p.finish_reason for p in pieces[:-1]] == [None] * (len(pieces) - 1)
        assert pieces[-1].finish_reason == "length"
        return [t for p in pieces for t in p.token_ids], "".join(p.text for p in pieces)

    async def read_all():
        return await asyncio.gather(*map(read, PROMPTS))

    found = asyncio.run(read_all())
    assert found == [(out.outputs[0].token_ids, out.outputs[0].text) for out in whole]


def test_threads_share_one_engine(make):
    engine = make()
    whole = tokens_of(engine.generate(PROMPTS, GREEDY))
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda p: tokens_of(engine.generate([p], GREEDY))[0], PROMPTS))
    assert found == whole


def test_a_paused_request_waits_for_its_resume(make):
    engine = make()
    whole = tokens_of(engine.generate(PROMPTS[:1], GREEDY))

    async def read():
        pieces = engine.stream(PROMPTS[0], GREEDY, request_id="a")
        tokens = (await anext(pieces)).token_ids
        engine.pause("a")
        rest = asyncio.create_task(collect(pieces))
        await asyncio.sleep(0)
        assert engine.load_report().num_paused == 1
        engine.resume("a")
        return tokens + await rest

    async def collect(pieces):
        return [token async for piece in pieces for token in piece.token_ids]

    assert [[asyncio.run(read())]] == whole


def test_leaving_a_stream_cancels(make):
    engine = make()

    async def leave():
        pieces = engine.stream(PROMPTS[0], SamplingParams(n=2, max_tokens=50, ignore_eos=True))
        async for _ in pieces:
            break
        await pieces.aclose()

    asyncio.run(leave())
    report = engine.load_report()
    assert report.num_running == report.num_waiting == 0
    assert report.num_free_pages + report.num_cached_pages == report.num_pages


def test_a_deadline_ends_an_answer(make):
    now = [0.0]
    engine = make(clock=lambda: now[0])
    (request,) = engine.submit(PROMPTS[0], GREEDY, timeout_seconds=5)
    engine.step()
    now[0] = 6.0
    engine.step()
    answer = engine.output([request]).outputs[0]
    assert (answer.finish_reason, len(answer.token_ids)) == ("deadline", 1)


def test_load_report_counts(make):
    engine = make(max_num_seqs=1)
    for prompt in PROMPTS:
        engine.submit(prompt, GREEDY)
    engine.step()
    report = engine.load_report()
    assert (report.num_running, report.num_waiting) == (1, 2)
    assert report.num_waiting_tokens == 28


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ([], "The prompt is empty; give at least one token"),
        ("", "The prompt is empty; give at least one token"),
        ([3] * 128, r"has 128 tokens, and the model's context of 128 must hold it.*shorten it"),
        ([1, 320], r"Token 1 of the prompt is 320, and the model knows 0 to 319; use this"),
        ([-1], r"Token 0 of the prompt is -1"),
    ],
)
def test_bad_prompts_are_refused(make, prompt, says):
    engine = make()
    with pytest.raises(DataError, match=says):
        engine.submit(prompt)
    assert engine.load_report().num_waiting == 0


def test_bad_requests_are_refused(make, llama, tmp_path):
    engine = make(cache_bytes=2**15)
    with pytest.raises(CapacityError, match=r"may grow to 80 tokens, 5 pages of 16.*raise cache"):
        engine.submit([3] * 40, SamplingParams(max_tokens=40))
    engine.submit([3], request_id="a")
    with pytest.raises(SettingsError, match=r"id 'a' is in use by an unfinished request"):
        engine.submit([3], request_id="a")
    with pytest.raises(DataError, match=r"logit_bias names token 400, and the model knows"):
        engine.submit([3], SamplingParams(logit_bias={400: 1}))
    with pytest.raises(CapacityError, match=r"cache_bytes=9 holds no page; one takes"):
        make(cache_bytes=9)
    with pytest.raises(CheckpointError, match="No model folder"):
        LLM(tmp_path / "nothing")
    with pytest.raises(SettingsError, match="No unfinished request 'x'"):
        engine.cancel("x")
    folder = shutil.copytree(llama, tmp_path / "mute", ignore=shutil.ignore_patterns("token*"))
    mute = LLM(folder, cache_bytes=2**20)
    (out,) = mute.generate([[3, 4]], GREEDY)
    assert out.outputs[0].text == ""
    for refused in (lambda: mute.submit("a"), lambda: mute.submit([3], SamplingParams(stop="a"))):
        with pytest.raises(DataError, match=r"has no tokenizer.*give lists of ids"):
            refused()
