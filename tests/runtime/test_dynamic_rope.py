"""Dynamic NTK: a request turns by its own length, whatever ran before or runs beside it.

The reference is transformers with a rotary embedding as it was loaded: its pass over a whole text,
and its `generate`, in which a prompt turns by its length and each later token by its place.
"""

import copy

import numpy as np
import pytest
import torch

from naive import plain_model
from runtime.flat import EXECUTORS, executor_of, pool_of, rows_of
from runtime.rope_models import overrides, parameters, told
from runtime.zoo import ARCHITECTURES, small
from treadle.core.checkpoint import CheckpointReader
from treadle.core.errors import DataError, SettingsError, UnsupportedModelError
from treadle.model import tiny
from treadle.model.layers import LayeredModel
from treadle.model.rope import RopeLengths
from treadle.model.scoring import BlockScorer
from treadle.runtime import LLM, SamplingParams
from treadle.runtime.cache.pages import page_bytes
from treadle.runtime.choice import agreement
from treadle.runtime.native_step.llama import LlamaStep
from treadle.runtime.probe import Probe, probe_text
from treadle.runtime.request import RequestState
from treadle.runtime.scoring import RuntimeScorer
from treadle.runtime.transformers_step.generic import GenericExecutor

FIRST, LONGEST = 64, 256
TOLERANCE = 5e-5
NEW = 10
SETTINGS = {"kv_dtype": "fp32", "cache_bytes": 2**21, "max_num_batched_tokens": 24, "page_size": 8}
PARAMS = SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True, logprobs=0)
SEEN = SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True, logprobs=0, prompt_logprobs=0)
LENGTHS = (FIRST - NEW // 2, 40, FIRST, FIRST + 1, 150, FIRST - NEW)
"""Of prompts: growing over the first length, below it, at it, one over, far over, ending at it."""


def folder_of(tiny_model, model_type="llama", **more):
    return tiny_model(
        model_type,
        **{**overrides(model_type, "dynamic"), "max_position_embeddings": FIRST, **more},
    )


def tokens_of(length, seed=5):
    return np.random.default_rng(seed).integers(1, tiny.VOCAB_SIZE, length).tolist()


PROMPTS = [tokens_of(length, seed) for seed, length in enumerate(LENGTHS)]


class Transformers:
    """A model of transformers that forgets after each text."""

    def __init__(self, folder):
        self._model = plain_model(folder)

    def fresh(self):
        return copy.deepcopy(self._model)

    def told(self, tokens):
        return told(self.fresh(), tokens)

    def generated(self, prompt, num_new=NEW):
        """Tokens, and their log-probabilities."""
        out = self.fresh().generate(
            *(torch.tensor([prompt]),),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            generation_config=_plain(num_new),
        )
        tokens = out.sequences[0, len(prompt) :].tolist()
        logs = [torch.log_softmax(one[0].float(), -1) for one in out.logits]
        return tokens, [float(log[token]) for log, token in zip(logs, tokens, strict=True)]

    def followed(self, prompt, answer):
        """Log-probabilities of an answer that was drawn, token by token over a cache."""
        model, found, cache = self.fresh(), [], None
        text = list(prompt)
        with torch.no_grad():
            for token in answer:
                out = model(torch.tensor([text]), past_key_values=cache, use_cache=True)
                cache = out.past_key_values
                found.append(float(torch.log_softmax(out.logits[0, -1].float(), -1)[token]))
                text = [token]
        return found


def _plain(num_new):
    from transformers import GenerationConfig

    return GenerationConfig(
        max_new_tokens=num_new,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        pad_token_id=0,
    )


def gap(output, reference, prompt):
    """Largest difference of a log-probability of what was told of the prompt and answer."""
    (answer,) = output.outputs
    tokens, right = reference.generated(prompt)
    assert answer.token_ids == tokens
    found = [entry[t] for entry, t in zip(answer.logprobs, answer.token_ids, strict=True)]
    if output.prompt_logprobs is not None:
        asked = zip(output.prompt_logprobs[1:], prompt[1:], strict=True)
        found = [entry[t] for entry, t in asked] + found
        right = reference.told([*prompt, 1])[:-1] + right
    return float(np.abs(np.subtract(found, right)).max())


@pytest.fixture(scope="module", params=EXECUTORS)
def dynamic(request, tiny_model):
    """An engine of a dynamic model, and transformers' own."""
    folder = folder_of(tiny_model)
    step = executor_of(folder, request.param)
    return (lambda **more: LLM(folder, executor=step, **{**SETTINGS, **more})), Transformers(folder)


def test_requests_are_those_of_generate_beside_each_other_and_again(dynamic):
    """In chunks side by side, then by what is cached, then backwards without a cache."""
    make, reference = dynamic
    engine = make()
    assert engine.shape.rope_lengths == RopeLengths((), FIRST)
    assert engine.shape.max_positions == LONGEST
    for prompt, out in zip(PROMPTS, engine.generate(PROMPTS, SEEN), strict=True):
        assert gap(out, reference, prompt) < TOLERANCE
    for prompt, out in zip(PROMPTS, engine.generate(PROMPTS, PARAMS), strict=True):
        assert out.outputs[0].num_cached_tokens == (len(prompt) - 1) // 8 * 8
        assert gap(out, reference, prompt) < TOLERANCE
    plain = make(enable_prefix_caching=False, max_num_batched_tokens=256)
    for prompt, out in zip(PROMPTS[::-1], plain.generate(PROMPTS[::-1], SEEN), strict=True):
        assert gap(out, reference, prompt) < TOLERANCE


def test_prefixes_are_shared_where_they_turn_alike_only(dynamic):
    make, reference = dynamic
    engine, long = make(), tokens_of(120)
    (out,) = engine.generate([long[: FIRST - 4]], PARAMS)
    grown = [*long[: FIRST - 4], *out.outputs[0].token_ids, 7]
    same = [*long[:-1], 9]
    for prompt, num_cached in (
        (grown[:FIRST], (FIRST - 1) // 8 * 8),  # turns by places up to the first length
        (grown, 0),  # a prompt of more tokens: by its length
        (long, 0),
        (same, (len(long) - 1) // 8 * 8),
        (long[:-1], 0),
    ):
        (out,) = engine.generate([prompt], PARAMS)
        assert out.outputs[0].num_cached_tokens == num_cached
        assert gap(out, reference, prompt) < TOLERANCE


@pytest.mark.parametrize("preemption", ["recompute", "swap"])
def test_texts_that_make_room_for_each_other(dynamic, preemption):
    make, reference = dynamic
    shape = make().shape
    engine = make(
        cache_bytes=18 * page_bytes(shape.kv_heads, shape.head_dim, 8, "fp32"),
        preemption=preemption,
        watermark_fraction=0,
        policy="fair",
        enable_prefix_caching=False,
    )
    asked = [tokens_of(FIRST - 2), tokens_of(FIRST + 6)]
    outs = engine.generate(asked, PARAMS)
    assert sum(out.outputs[0].num_preemptions for out in outs) > 0
    for prompt, out in zip(asked, outs, strict=True):
        assert gap(out, reference, prompt) < TOLERANCE


@pytest.mark.parametrize("prompt", [PROMPTS[0], PROMPTS[3]], ids=["grows over", "is over"])
def test_drafts_siblings_and_moves_change_nothing(dynamic, prompt):
    make, reference = dynamic
    right, _ = reference.generated(prompt)
    engine, num_steps = make(), 0
    (request,) = engine.submit(prompt, PARAMS)
    while request.state is not RequestState.FINISHED:
        request.drafts = [*right[request.num_new :][:4], 3]
        engine.step()
        num_steps += 1
    assert request.outputs == right
    assert num_steps < NEW
    drawn = SamplingParams(n=2, temperature=1.2, max_tokens=NEW, ignore_eos=True, logprobs=0)
    moved = _moved(make(), make(), prompt)
    engine = make(max_num_seqs=2)
    siblings = engine.submit(prompt, drawn)
    while any(one.state is not RequestState.FINISHED for one in siblings):
        engine.step()
    assert siblings[0].outputs != siblings[1].outputs
    for one in (request, moved, *siblings):
        found = [e[t] for e, t in zip(one.logprobs, one.outputs, strict=True)]
        np.testing.assert_allclose(found, reference.followed(prompt, one.outputs), atol=TOLERANCE)


def _moved(source, target, prompt):
    """Return a request that another engine took over in the midst of its answer."""
    (request,) = source.submit(prompt, PARAMS, request_id="r")
    while request.num_new < 2:
        source.step()
    first = source.export_pages("r")
    target.import_pages(first)
    while request.num_new < 8:
        source.step()
    source.pause("r")
    with pytest.raises(SettingsError, match=r"has \d pages to export"):
        source.export_pages("r", 10)
    rest = source.export_pages("r", first.num_pages)
    assert rest.first_page == first.num_pages > 0
    target.import_pages(rest)
    moved = target.commit("r")
    assert moved.num_computed > len(prompt)
    while moved.state is not RequestState.FINISHED:
        target.step()
    return moved


@pytest.mark.parametrize("length", [FIRST, FIRST + 1, 100])
def test_vectors_and_one_step_of_a_text(dynamic, length):
    make, reference = dynamic
    tokens, engine = tokens_of(length), make(max_num_seqs=4, max_num_batched_tokens=7)
    engine.embed([tokens_of(200)])
    with torch.no_grad():
        right = reference.fresh().model(torch.tensor([tokens])).last_hidden_state[0]
        logits = reference.fresh()(torch.tensor([tokens])).logits[0, -1]
    np.testing.assert_allclose(engine.embed([tokens])[0], right.mean(0), atol=1e-5)
    seen = probe_text(engine.executor, tokens, Probe())
    np.testing.assert_allclose(seen.logits[0], logits, atol=1e-4)


def test_scorers_score_each_row_by_its_own_length(dynamic, tiny_model):
    make, reference = dynamic
    lengths = (200, 30, FIRST + 1, 120, FIRST, FIRST + 2, 120, 119, 2, LONGEST)
    rows = [tokens_of(length, seed) for seed, length in enumerate(lengths)]
    right = [np.negative(reference.told(row)) for row in rows]
    with CheckpointReader(folder_of(tiny_model)) as reader:
        blocks = BlockScorer(reader).token_losses(rows)
    for scored in (blocks, RuntimeScorer(make()).token_losses(rows)):
        for found, expected in zip(scored, right, strict=True):
            np.testing.assert_allclose(found, expected, atol=TOLERANCE)


def test_a_model_of_which_one_block_is_in_memory_forgets_longer_windows(tiny_model):
    folder = folder_of(tiny_model)
    reference = Transformers(folder)
    with CheckpointReader(folder) as reader:
        model = LayeredModel(reader)
        for length in (200, 80, 40, 80):
            tokens = torch.tensor([tokens_of(length)])
            hidden = model.embed(tokens)
            for layer, block in model.visit("test"):
                model.run(block, layer, hidden)
            with torch.no_grad():
                right = reference.fresh()(tokens).logits
            np.testing.assert_allclose(model.logits(tokens, hidden), right, atol=1e-4)


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("dynamic_kind", ["full_attention", "sliding_attention"])
def test_one_kind_of_layers_may_be_dynamic(executor, dynamic_kind, tiny_model):
    kinds = ["sliding_attention", "full_attention"]
    turned = {k: parameters("dynamic" if k == dynamic_kind else "default") for k in kinds}
    folder = folder_of(tiny_model, "gemma3_text", layer_types=kinds, rope_parameters=turned)
    engine = LLM(folder, executor=executor_of(folder, executor), **SETTINGS)
    # Layers that see far decide how far a text may go.
    is_far = dynamic_kind == "full_attention"
    assert engine.shape.max_positions == (LONGEST if is_far else FIRST)
    assert engine.shape.rope_dynamic_from == FIRST
    if is_far:
        for prompt, out in zip(PROMPTS, engine.generate(PROMPTS, SEEN), strict=True):
            assert gap(out, Transformers(folder), prompt) < TOLERANCE


def test_the_native_step_is_compared_beyond_the_first_length(tiny_model):
    folder = folder_of(tiny_model)
    step = LlamaStep(folder, "fp32", 1)
    assert agreement(folder, step).largest < 1e-3
    rope = step._ropes[0]
    first = rope._ask(0)
    rope._ask = lambda regime: first  # as if long texts turned like short ones
    assert agreement(folder, step).largest > 0.1


def test_prompts_beyond_the_stretched_length_are_refused(dynamic):
    make, _ = dynamic
    with pytest.raises(DataError, match=r"model's context of 256 must hold it"):
        make().generate([tokens_of(LONGEST)], PARAMS)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", ARCHITECTURES)
@pytest.mark.parametrize("rope", ["dynamic", "yarn"])
def test_each_architecture_is_exact_beyond_the_first_length_or_refused(model_type, rope):
    turned = {"rope_type": rope, "rope_theta": 10_000.0, "factor": 4.0}
    if rope == "yarn":
        turned["original_max_position_embeddings"] = FIRST
    module = small(model_type, rope_parameters=turned, max_position_embeddings=FIRST)
    if module is None:
        pytest.skip("these settings do not make one")
    with torch.no_grad():
        module(input_ids=torch.tensor([[1, 2]]))  # what was tried on it is forgotten
    reference = copy.deepcopy(module)
    try:
        step = GenericExecutor(module)
    except UnsupportedModelError:
        return
    for length in (100, 80, 40, FIRST, FIRST + 1, 200):
        if length > step.shape.max_positions:
            continue
        tokens, pool, found = tokens_of(length), pool_of(step), []
        for first in range(0, length, 37):
            part = tokens[first : first + 37]
            pages = list(range(-(-(first + len(part)) // pool.page_size)))
            rows = rows_of([(part, first, pages)], text_lengths=np.asarray([length], np.int32))
            found.append(step.forward(rows, pool))
        with torch.no_grad():
            right = copy.deepcopy(reference)(input_ids=torch.tensor([tokens])).logits[0]
        apart = np.abs(np.concatenate(found) - right.numpy()).max()
        assert apart < 1e-3 * float(right.std())
