"""What can be seen inside a step, in both executors, against transformers' own attention."""

import numpy as np
import pytest

from naive import tokens_of
from runtime.flat import EXECUTORS, PAGE, executor_of, ints, pool_of, rows_of
from runtime.masked import causal, masked
from runtime.test_head_tables import step_of, texts_in
from treadle.core.errors import SettingsError
from treadle.runtime.probe import Probe, count_slots, probe_text

TABLE = [5, 2, 7, 0, 3, 9]
NEAR = {"atol": 2e-5}


@pytest.fixture(scope="module")
def make(tiny_model):
    made = {}

    def build(architecture: str, name: str):
        folder = tiny_model(architecture)
        if (architecture, name) not in made:
            made[architecture, name] = executor_of(folder, name)
        return folder, made[architecture, name]

    return build


def whole(folder, executor, tokens):
    """What transformers gives for a text in which all is seen but by the model's own windows."""
    return masked(folder, tokens, [causal(len(tokens))[None]] * executor.shape.num_layers)


@pytest.mark.parametrize("name", EXECUTORS)
@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma2", "qwen3"])
def test_a_prompt_in_chunks_beside_another(make, architecture, name):
    """Grouped heads, windows and soft caps; pages in odd order; the second of two segments."""
    folder, executor = make(architecture, name)
    tokens, other = tokens_of(1, 40)[0].tolist(), tokens_of(1, 9, 1)[0].tolist()
    expected, pool = whole(folder, executor, tokens), pool_of(executor)
    for first, last in ((0, 23), (23, 40)):
        rows = rows_of([(other, 0, [20, 21]), (tokens[first:last], first, TABLE)])
        logits = executor.forward(rows, pool_of(executor)) if not first else None
        by_row = executor.probe(rows, pool, Probe("rows", segment=1))
        added = executor.probe(rows, pool, Probe(segment=1, has_states=False))
        if logits is not None:
            np.testing.assert_array_equal(by_row.logits, logits)
        np.testing.assert_allclose(by_row.states[:, 9:], expected.states[:, first:last], atol=2e-4)
        assert added.states is None
        for layer, weights in enumerate(expected.weights):
            own = weights[:, first:last, :last]
            np.testing.assert_allclose(by_row.mass[layer], own.transpose(1, 0, 2), **NEAR)
            np.testing.assert_allclose(added.mass[layer], own.sum(1), **NEAR)


@pytest.mark.parametrize("name", EXECUTORS)
def test_a_text_of_its_own(make, name):
    folder, executor = make("llama", name)
    tokens = tokens_of(1, 37)[0].tolist()
    expected = whole(folder, executor, tokens)
    found = probe_text(executor, tokens, Probe())
    np.testing.assert_allclose(found.mass[1], expected.weights[1].sum(1), **NEAR)
    np.testing.assert_allclose(found.states, expected.states, atol=2e-4)
    np.testing.assert_allclose(found.logits, expected.logits[-1:], atol=2e-4)


@pytest.mark.parametrize("name", EXECUTORS)
def test_the_last_rows_of_a_prompt_alone(make, name):
    """And one row beside others of one row, which the generic executor attends to together."""
    folder, executor = make("llama", name)
    tokens = tokens_of(1, 30)[0].tolist()
    expected, pool = whole(folder, executor, tokens), pool_of(executor)
    rows = rows_of([(tokens[:29], 0, TABLE)])
    last = executor.probe(rows, pool, Probe(first_row=25, has_states=False)).mass
    np.testing.assert_allclose(last[1], expected.weights[1][:, 25:29, :29].sum(1), **NEAR)
    beside = [(tokens[:1], 0, [11]), (tokens[29:], 29, TABLE), (tokens[:1], 0, [12])]
    one = executor.probe(rows_of(beside), pool, Probe(segment=1)).mass
    np.testing.assert_allclose(one[0], expected.weights[0][:, 29], **NEAR)


@pytest.mark.parametrize("name", EXECUTORS)
@pytest.mark.parametrize(("kv", "tolerance"), [("fp16", 0.01), ("int8", 0.1)])
@pytest.mark.parametrize("page_size", [4, 16])
def test_narrow_caches_and_small_pages(make, name, kv, tolerance, page_size):
    folder, executor = make("llama", name)
    tokens = tokens_of(1, 30)[0].tolist()
    expected, pool = whole(folder, executor, tokens), pool_of(executor, kv, page_size)
    rows = rows_of([(tokens, 0, list(range(8)))], page_size)
    found = executor.probe(rows, pool, Probe("rows", has_states=False)).mass
    for layer, weights in enumerate(expected.weights):
        np.testing.assert_allclose(found[layer], weights.transpose(1, 0, 2), atol=tolerance)
        np.testing.assert_allclose(found[layer].sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize("name", EXECUTORS)
def test_a_tree_of_drafts(make, name):
    """Each branch gives to its own slots what it gives to a text of its own."""
    folder, executor = make("mistral", name)
    prompt, branches = tokens_of(1, 30)[0].tolist(), [[11, 12], [13, 14]]
    pool, others = pool_of(executor), {}
    executor.forward(rows_of([(prompt, 0, TABLE)]), pool)
    others = {"prefix_lengths": ints([30]), "ancestors": np.array([[1], [3], [4], [12]], np.uint64)}
    rows = rows_of([(branches[0] + branches[1], 30, TABLE)], **others)
    rows = rows._replace(positions=ints([30, 31, 30, 31]))
    found = executor.probe(rows, pool, Probe("rows")).mass
    for branch, own in enumerate(branches):
        expected = whole(folder, executor, prompt + own)
        slots = [*range(30), 30 + 2 * branch, 31 + 2 * branch]
        for layer, weights in enumerate(expected.weights):
            part = found[layer][2 * branch : 2 * branch + 2]
            np.testing.assert_allclose(part[..., slots], weights[:, 30:].swapaxes(0, 1), **NEAR)
            np.testing.assert_allclose(part.sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize("name", EXECUTORS)
def test_heads_that_dropped_entries(make, name):
    """Slot i is a head's entry i; a head with fewer entries gives nothing beyond."""
    folder, executor = make("mistral", name)
    first, text = texts_in(executor, "fp32", 2)
    for number, count in enumerate((20, 11, 1, 6)):
        for own in (first, text):
            own.grow(tokens_of(1, count, number)[0].tolist())
        rows = step_of([first, text], [count, count])
        found = executor.probe(rows, text.store, Probe("rows", segment=1))
        assert found.mass[0].shape[-1] == count_slots(rows, 1)
        cuts, heads = np.cumsum(text.store.kv_heads)[:-1], text.seen
        size = len(text.tokens)
        seen = np.stack([np.pad(s, ((0, 0), (0, size - s.shape[1]))) for s in heads], 1)
        expected = masked(folder, text.tokens, np.split(seen, cuts))
        entries = np.split(text.entries.positions(text.store), cuts)
        for layer, weights in enumerate(expected.weights):
            group = len(weights) // len(entries[layer])
            for head, own in enumerate(np.repeat(entries[layer], group, 0)):
                places = own[own >= 0]
                part = found.mass[layer][:, head]
                wanted = weights[head][size - count :, places]
                np.testing.assert_allclose(part[:, : len(places)], wanted, **NEAR)
                assert not part[:, len(places) :].any()
        for own in (first, text):
            own.drop(np.random.default_rng(number))


@pytest.mark.skipif("native" not in EXECUTORS, reason="needs a C compiler")
def test_sums_do_not_depend_on_threads(make, llama):
    from treadle.runtime.native_step.llama import LlamaStep

    rows, found = rows_of([(tokens_of(1, 45)[0].tolist(), 0, TABLE)]), []
    for threads in (1, 2, 3):
        step = LlamaStep(llama, "q8", threads)
        found.append(step.probe(rows, pool_of(step), Probe()))
        step.close()
    for other in found[1:]:
        np.testing.assert_array_equal(other.states, found[0].states)
        for left, right in zip(other.mass, found[0].mass, strict=True):
            np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("name", EXECUTORS)
@pytest.mark.parametrize(
    ("probe", "says"),
    [
        (lambda: Probe("mean"), "mass='mean'; choose 'sum', 'rows' or None"),
        (lambda: Probe(None, has_states=False), "looks at nothing; leave mass"),
        (lambda: Probe(segment=-1), "segment"),
        (lambda: Probe(first_row=1.5), "first_row"),
        (lambda: Probe(segment=1), "segment=1 for a step of 1 segments"),
        (lambda: Probe(first_row=PAGE), "first_row=8, behind the last row of segment 0"),
    ],
)
def test_what_cannot_be_seen_is_refused(make, name, probe, says):
    _, executor = make("llama", name)
    with pytest.raises(SettingsError, match=says):
        executor.probe(rows_of([(range(PAGE), 0, [0])]), pool_of(executor), probe())


@pytest.mark.parametrize("name", EXECUTORS)
@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        ([5, 320, 7], r"tokens\[1\]=320 for a vocabulary of 320"),
        ([5, -1], r"tokens\[1\]"),
        ([5, 2**31 - 1], r"tokens\[1\]"),
        ([1.7, 2.0], r"tokens\[0\]"),
        ([], "Found 0 tokens, expected 1 to 128"),
        ([5] * 129, "Found 129 tokens"),
    ],
)
def test_a_text_that_the_model_cannot_read_is_refused(make, name, tokens, said):
    _, executor = make("llama", name)
    with pytest.raises(SettingsError, match=said):
        probe_text(executor, tokens, Probe())
