"""Drafts by a model: exact answers, exact laws, a cache in step, and what is refused."""

import re
import shutil
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from naive import tokens_of
from runtime.draft.texts import admit_all
from treadle.core.errors import CapacityError, SettingsError
from treadle.core.simulate import VirtualClock
from treadle.model import tiny
from treadle.runtime import LLM, SamplingParams
from treadle.runtime.answer.verify import by_block, by_rejection
from treadle.runtime.draft.tables import DRAFTERS
from treadle.runtime.speculate import speculation
from treadle.runtime.speculate.depth import Depth
from treadle.runtime.transformers_step.generic import GenericExecutor

NEW = 20
VOCAB = 5


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A model, and one of fewer layers with the same embedding that says nearly the same."""
    from safetensors.torch import load_file, save_file

    large = tiny.build("llama", tmp_path_factory.mktemp("large"), num_hidden_layers=2)
    small = tiny.build("llama", tmp_path_factory.mktemp("small"), num_hidden_layers=1)
    weights = load_file(large / "model.safetensors")
    for name, value in weights.items():
        if ".layers.1." in name and ("o_proj" in name or "down_proj" in name):
            value *= 0.2
    save_file(weights, large / "model.safetensors", {"format": "pt"})
    kept = {name: weights[name] for name in load_file(small / "model.safetensors")}
    save_file(kept, small / "model.safetensors", {"format": "pt"})
    return large, small


@pytest.fixture(scope="module")
def make(pair):
    executor = GenericExecutor.from_folder(pair[0])

    def build(**draft) -> LLM:
        method = {"method": "model", "path": str(pair[1]), **draft} if draft else "none"
        return LLM(
            pair[0],
            executor=executor,
            cache_bytes=2**19,
            kv_dtype="fp32",
            clock=VirtualClock(),
            speculate=method,
        )

    return build


def answers(engine: LLM, params: SamplingParams) -> list[list[int]]:
    prompts = [tokens_of(1, size, size)[0].tolist() for size in (3, 30, 17)]
    found = engine.generate(prompts, params)
    return [answer.token_ids for out in found for answer in out.outputs]


@pytest.mark.parametrize(
    "kind",
    [
        {"temperature": 0},
        {"temperature": 0.8, "seed": 1, "n": 2},
        {"temperature": 0.7, "seed": 2, "top_k": 5, "frequency_penalty": 0.5, "logprobs": 1},
    ],
    ids=["greedy", "sampled", "filtered"],
)
def test_coupled_answers_are_those_without(make, kind, monkeypatch):
    monkeypatch.setattr(speculation, "admitted", admit_all)
    params = SamplingParams(max_tokens=NEW, ignore_eos=True, **kind)
    engine = make(most_tokens=3)
    for _ in range(2):
        assert answers(engine, params) == answers(make(), params)
    drafted = engine.load_report().drafted
    assert drafted.num_accepted > 0.2 * drafted.num_drafted > 0


def test_a_small_cache_of_the_draft_changes_nothing(make):
    params = SamplingParams(max_tokens=NEW, ignore_eos=True, temperature=0)
    engine = make(most_tokens=3, cache_tokens=64)
    assert answers(engine, params) == answers(make(), params)
    assert engine.load_report().drafted.num_accepted > 0
    assert engine._runner.speculation._drafting._pool.num_free <= 4
    engine.step()  # notes that all have ended
    assert engine._runner.speculation._drafting._pool.num_free == 4


@pytest.mark.parametrize("verification", ["rejection", "block"])
def test_answers_by_laws_repeat_whatever_runs_beside(make, verification):
    params = SamplingParams(max_tokens=NEW, ignore_eos=True, temperature=1.0, seed=5)
    engine = make(verification=verification, most_tokens=3)
    together = answers(engine, params)
    prompts = [tokens_of(1, size, size)[0].tolist() for size in (3, 30, 17)]
    alone = [
        make(verification=verification, most_tokens=3).generate([p], params)[0].outputs[0].token_ids
        for p in prompts
    ]
    assert together == alone
    assert engine.load_report().drafted.num_accepted > 0
    greedy = SamplingParams(max_tokens=NEW, ignore_eos=True, temperature=0)
    assert answers(engine, greedy) == answers(make(), greedy)


@pytest.mark.parametrize("verification", ["rejection", "block"])
def test_answers_by_laws_repeat_whatever_was_measured(pair, verification):
    """By the machine's own clock: a long prompt with a short answer is read by the draft, too."""
    draft = {"method": "model", "path": str(pair[1]), "verification": verification}
    engine = LLM(pair[0], cache_bytes=2**20, kv_dtype="fp32", speculate=draft)
    params = SamplingParams(max_tokens=6, temperature=1.0, seed=4, ignore_eos=True)
    (prompt,) = tokens_of(1, 100, 3).tolist()
    first, *others = [engine.generate([prompt], params)[0].outputs[0] for _ in range(4)]
    assert first.num_drafted_tokens > 0
    assert [one.token_ids for one in others] == [first.token_ids] * 3


def random_laws(generator, count: int) -> list[np.ndarray]:
    return list(generator.dirichlet(np.ones(3), count))


def outcomes(verify, path, drafted, laws):
    """Yield the chance that each number of tokens stays, and the law of what follows."""
    length, chances = len(path), []
    for place in range(length):
        # Of rejection, all before it have to stay; of blocks, none behind it.
        before = [0.0 if verify is by_rejection else 1.0] * place
        low, high = 0.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            draws = [*before, middle, *[1.0] * (length - place - 1)]
            stays = verify(path, drafted, laws, draws)[0] > place
            low, high = (middle, high) if stays else (low, middle)
        chances.append(low)
    for count in range(length + 1):
        if verify is by_rejection:
            draws = [0.0] * count + [1.0] * (length - count)
            own = np.prod(chances[:count]) * (1 - [*chances, 0.0][count])
        else:
            draws = [1.0] * length
            draws[count - 1 : count] = [0.0] * min(count, 1)
            own = [1.0, *chances][count] * np.prod([1 - chance for chance in chances[count:]])
        if own > 1e-9:
            found, law = verify(path, drafted, laws, draws)
            assert found == count
            yield own, count, law


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 3), st.integers(0, 2**32 - 1), st.sampled_from([by_block, by_rejection]))
def test_the_joint_law_is_the_models(length, seed, verify):
    """By enumeration of all drafts and of all ways in which they are verified."""
    generator = np.random.default_rng(seed)
    starts = [path for n in range(length + 1) for path in product(range(3), repeat=n)]
    q = dict(zip(starts, random_laws(generator, len(starts)), strict=True))
    p = dict(zip(starts, random_laws(generator, len(starts)), strict=True))
    joint, expected = np.zeros((3,) * (length + 1)), np.zeros((3,) * (length + 1))
    for path in product(range(3), repeat=length):
        drafted = [q[path[:n]] for n in range(length)]
        laws = [p[path[:n]] for n in range(length + 1)]
        chance = np.prod([law[token] for law, token in zip(drafted, path, strict=True)])
        for own, count, law in outcomes(verify, path, drafted, laws):
            for token, rest in product(range(3), product(range(3), repeat=length - count)):
                whole = (*path[:count], token, *rest)
                follow = [p[whole[:n]][whole[n]] for n in range(count + 1, length + 1)]
                joint[whole] += chance * own * law[token] * np.prod(follow)
    for whole in product(range(3), repeat=length + 1):
        expected[whole] = np.prod([p[whole[:n]][whole[n]] for n in range(length + 1)])
    np.testing.assert_allclose(joint, expected, atol=1e-6)


def test_blocks_accept_more_than_single_tokens():
    generator, counts = np.random.default_rng(0), {by_block: 0, by_rejection: 0}
    for _ in range(3000):
        drafted, laws = random_laws(generator, 4), random_laws(generator, 5)
        path = [int(generator.choice(3, p=law)) for law in drafted]
        draws = generator.random(4).tolist()
        for verify in counts:
            counts[verify] += verify(path, drafted, laws, draws)[0]
    assert counts[by_block] > 1.02 * counts[by_rejection]


@pytest.mark.parametrize("speculate", ["coupled", "rejection", "block", "ngram"])
def test_sampled_answers_have_the_models_law(tmp_path_factory, speculate, monkeypatch):
    """Chi-square on the first three tokens of answers, with a vocabulary of a few tokens."""
    monkeypatch.setattr(speculation, "admitted", admit_all)
    folder = tiny.build("llama", tmp_path_factory.mktemp("few"), vocab_size=VOCAB)
    small = tiny.build(
        "llama", tmp_path_factory.mktemp("fewer"), vocab_size=VOCAB, num_hidden_layers=1
    )
    executor = GenericExecutor.from_folder(folder)
    method = {"method": "model", "path": str(small), "verification": speculate, "most_tokens": 3}
    engine = LLM(
        folder,
        executor=executor,
        cache_bytes=2**20,
        kv_dtype="fp32",
        clock=VirtualClock(),
        speculate="ngram" if speculate == "ngram" else method,
    )
    params = SamplingParams(max_tokens=5, ignore_eos=True, temperature=1.3, seed=None, n=600)
    (out,) = engine.generate([[1, 2]], params)
    assert engine.load_report().drafted.num_accepted > 100
    counts = np.zeros((VOCAB,) * 3)
    for answer in out.outputs:
        counts[tuple(answer.token_ids[:3])] += 1
    laws = np.zeros_like(counts)
    for a in range(VOCAB):
        first = _at(engine, [1, 2], params.temperature)
        second = _at(engine, [1, 2, a], params.temperature)
        for b in range(VOCAB):
            laws[a, b] = first[a] * second[b] * _at(engine, [1, 2, a, b], params.temperature)
    flat, seen = laws.ravel() * len(out.outputs), counts.ravel()
    is_rare = flat < 5
    flat = np.append(flat[~is_rare], flat[is_rare].sum())
    seen = np.append(seen[~is_rare], seen[is_rare].sum())
    assert chisquare(seen, flat * seen.sum() / flat.sum()).pvalue > 1e-3


def _at(engine: LLM, start: list[int], temperature: float) -> np.ndarray:
    texts = [[*start, token] for token in range(VOCAB)]
    scores = np.array([row[-1] for row in engine.log_probs(texts, [len(start)] * VOCAB)])
    law = np.exp(scores / temperature)
    return law / law.sum()


def test_what_does_not_fit_is_refused(pair, tmp_path):
    large, small = pair
    other = tiny.build("llama", tmp_path / "other", vocab_size=77)
    with pytest.raises(SettingsError, match=r"has 77 tokens in its vocabulary.*draft for \d+; ch"):
        LLM(large, speculate=str(other), cache_bytes=2**19)
    with pytest.raises(SettingsError, match=r"bytes of weights, more than the \d+.*q4_0"):
        LLM(small, speculate=large, cache_bytes=2**19)
    with pytest.raises(SettingsError, match="most_tokens"):
        DRAFTERS.resolve({"method": "model", "path": "x", "most_tokens": 0})
    copies = [shutil.copytree(folder, tmp_path / folder.name) for folder in pair]
    tiny.tokenizer(copies[0])
    tiny.tokenizer(copies[1])
    file = copies[1] / "tokenizer.json"
    text = file.read_text()
    assert LLM(copies[0], speculate=copies[1], cache_bytes=2**19) is not None
    file.write_text(text.replace('"q"', '"\\u00fe\\u00fe"', 1))
    with pytest.raises(SettingsError, match="tokenizer that reads texts otherwise"):
        LLM(copies[0], speculate=copies[1], cache_bytes=2**19)
    swapped = {'"\u00a6"': '"\u00a7"', '"\u00a7"': '"\u00a6"'}
    found = re.sub("|".join(swapped), lambda one: swapped[one[0]], text)
    assert found != text
    file.write_text(found)  # what no sample shows
    with pytest.raises(SettingsError, match="tokenizer that reads texts otherwise"):
        LLM(copies[0], speculate=copies[1], cache_bytes=2**19)
    draft = {"method": "model", "path": str(small), "cache_tokens": 10**11}
    with pytest.raises(CapacityError, match="cache_tokens=100000000000"):
        LLM(large, speculate=draft, cache_bytes=2**19)


def test_depth_follows_what_is_measured():
    depth = Depth()
    steps = {"seconds": lambda rows: [1 + 0.05 * (n - 1) for n in rows]}
    for _ in range(20):
        depth.observe(1, 1, 4, 4 * 0.1)
    assert depth.choose(1, 5, 0.9, **steps)[0] == 5
    assert depth.choose(1, 5, 0.4, **steps)[0] in (1, 2)
    for _ in range(60):
        depth.observe(1, 1, 4, 4 * 0.9)
    asked = [depth.choose(1, 5, 0.5, **steps)[0] for _ in range(400)]
    assert max(asked) == 1
    assert 5 <= sum(asked) <= 20  # a probe now and then
    depth.observe(1000, 1, 2, 30.0)
    assert depth.pays(10, 5, 1.0, 0.01)
    assert not depth.pays(1000, 64, 1.5, 0.01)
    assert depth.pays(1000, 6400, 1.5, 0.1)
