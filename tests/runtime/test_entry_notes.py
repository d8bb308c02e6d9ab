"""What executors note of entries beside them, in both of them, against plain formulas."""

import numpy as np
import pytest

from naive import tokens_of
from runtime.test_head_tables import EXECUTORS, PAGE, Text, make, step_of, texts_in
from treadle.core.errors import CheckpointError, UnsupportedModelError
from treadle.model.retaining import GATE_WIDTH, LayerHeads, RetainingHeads
from treadle.runtime.executor import EntryNotes, Executor
from treadle.runtime.probe import LayerInputs, Probe, probe_text

assert make is not None
TOKENS = tokens_of(1, 40)[0].tolist()
PARTS = (11, 1, 7, 21)
"""How the text is cut into steps."""


def run(executor: Executor, notes_at, dtype: str = "fp32", is_beside: bool = False) -> Text:
    """Run the text in parts, with another one beside it whose entries are not noted."""
    texts = texts_in(executor, dtype, 1 + is_beside)
    first = 0
    for count in PARTS:
        for text in texts:
            text.grow(TOKENS[first : first + count])
        rows = step_of(texts, [count] * len(texts))
        own = [notes_at(first, count), EntryNotes()][: len(texts)]
        executor.forward(rows._replace(heads=rows.heads._replace(notes=tuple(own))), texts[0].store)
        first += count
    return texts[0]


def scores_in(text: Text) -> np.ndarray:
    """[kv_heads, tokens] what stands beside the entries of a text that dropped none."""
    found = text.store.scores_of(text.entries.planes)
    return found.reshape(len(found), -1)[:, : len(text.tokens)]


def inputs_of(executor: Executor) -> tuple[LayerInputs, ...]:
    found = probe_text(executor, TOKENS, Probe(None, has_states=False, has_inputs=True)).inputs
    assert found is not None
    return found


def drawn_heads(executor: Executor, kind: str, reads: str, inputs: list[int]) -> RetainingHeads:
    draw = np.random.default_rng(3)

    def numbers(*shape: int) -> np.ndarray:
        return draw.normal(0, 0.3, shape).astype(np.float32)

    heads = [one.turned_queries.shape[1] for one in inputs_of(executor)]
    layers = []
    for queries, kv_heads, width in zip(heads, executor.shape.kv_heads, inputs, strict=True):
        if kind == "linear":
            layers.append(LayerHeads(numbers(kv_heads, width), numbers(kv_heads)))
        elif kind == "mlp":
            parts = (numbers(37, width), numbers(37), numbers(kv_heads, 37), numbers(kv_heads))
            layers.append(LayerHeads(*parts))
        else:
            first = numbers((queries + kv_heads) * GATE_WIDTH, width)
            own = (numbers(2, GATE_WIDTH) + 1, numbers(kv_heads, 5, GATE_WIDTH), numbers(queries))
            layers.append(LayerHeads(first, None, None, None, *own))
    return RetainingHeads(kind, reads, "silu", tuple(layers))


def expected_scores(heads: RetainingHeads, layer: int, own: LayerInputs) -> np.ndarray:
    """[tokens, kv_heads] in plain loops."""
    part, kv_heads = heads.layers[layer], own.turned_keys.shape[1]
    read = own.hidden
    if heads.reads == "projections":
        parts = (own.queries, own.keys, own.values)
        read = np.concatenate([one.reshape(len(one), -1) for one in parts], axis=1)
    first = read.astype(np.float64) @ part.first.T.astype(np.float64)
    first = first if part.first_bias is None else first + part.first_bias
    if heads.kind == "linear":
        return first
    if heads.kind == "mlp":
        return (first / (1 + np.exp(-first))) @ part.second.T + part.second_bias
    queries = own.turned_queries.shape[1]
    found = np.zeros((len(read), kv_heads))
    for row, numbers in enumerate(first.reshape(len(read), -1, GATE_WIDTH)):
        normed = [one / np.sqrt((one**2).mean() + 1e-6) for one in numbers]
        for head in range(queries):
            kv = head // (queries // kv_heads)
            query, key = normed[head] * part.norms[0], normed[queries + kv] * part.norms[1]
            z = query @ key / 4 + part.bias[head]
            sinks = sum(np.exp(query @ sink - z) for sink in part.sinks[kv])
            found[row, kv] += 1 / (1 + sinks) / (queries // kv_heads)
    return found


@pytest.mark.parametrize("name", EXECUTORS)
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma2"])
def test_what_attention_works_with_can_be_seen(make, architecture, name):
    """Queries, keys and values follow from the state before; keys are those of the cache."""
    _, executor = make(architecture, name)
    other = make(architecture, "generic")[1]
    for own, theirs in zip(inputs_of(executor), inputs_of(other), strict=True):
        for mine, yours in zip(own, theirs, strict=True):
            np.testing.assert_allclose(mine, yours, atol=2e-5)
    text = run(executor, lambda first, count: EntryNotes())
    stored = text.store.arena.keys[text.entries.planes]  # [heads, pages, dim, page]
    keys = stored.transpose(0, 1, 3, 2).reshape(len(stored), -1, stored.shape[2])
    turned = np.concatenate([one.turned_keys for one in inputs_of(executor)], axis=1)
    np.testing.assert_allclose(keys[:, : len(TOKENS)].transpose(1, 0, 2), turned, atol=2e-5)


@pytest.mark.parametrize("name", EXECUTORS)
@pytest.mark.parametrize(
    ("kind", "reads"),
    [
        ("linear", "hidden"),
        ("mlp", "projections"),
        ("mlp", "hidden"),
        ("gate", "hidden"),
    ],
)
def test_trained_heads_score_entries(make, kind, reads, name):
    _, executor = make("qwen3", name)
    seen = inputs_of(executor)
    widths = [one.hidden.shape[1] for one in seen]
    if reads == "projections":
        widths = [sum(p[0].size for p in (one.queries, one.keys, one.values)) for one in seen]
    heads = drawn_heads(executor, kind, reads, widths)
    executor.add_heads("own", heads)
    text = run(executor, lambda first, count: EntryNotes("heads", "own"), is_beside=True)
    found = np.split(scores_in(text), np.cumsum(executor.shape.kv_heads)[:-1])
    for layer, (scores, own) in enumerate(zip(found, seen, strict=True)):
        np.testing.assert_allclose(scores.T, expected_scores(heads, layer, own), atol=2e-4)


@pytest.mark.parametrize("name", EXECUTORS)
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "int8"])
def test_the_length_of_keys_is_noted_before_they_are_rounded(make, dtype, name):
    _, executor = make("llama", name)
    text = run(executor, lambda first, count: EntryNotes("key_norm"), dtype)
    turned = np.concatenate([one.turned_keys for one in inputs_of(executor)], axis=1)
    tolerance = {"fp32": 1e-4, "fp16": 0.02, "int8": 0.1}[dtype]
    expected = -np.linalg.norm(turned, axis=-1).T
    np.testing.assert_allclose(scores_in(text), expected, atol=tolerance)


@pytest.mark.parametrize("name", EXECUTORS)
@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma2"])
@pytest.mark.parametrize("is_largest", [False, True])
def test_weights_of_the_last_rows_count(make, architecture, is_largest, name):
    """Rows from 25 on, wherever steps cut them, against the probabilities of one pass."""
    _, executor = make(architecture, name)

    def notes_at(first: int, count: int) -> EntryNotes:
        counted = max(0, 25 - first)
        return EntryNotes("zero", "", counted if counted < count else None, is_largest)

    text = run(executor, notes_at, is_beside=True)
    mass = probe_text(executor, TOKENS, Probe("rows", has_states=False)).mass
    expected = []
    for layer, kv_heads in zip(mass, executor.shape.kv_heads, strict=True):
        own = layer[25:].reshape(15, kv_heads, -1, len(TOKENS))
        expected.append(own.max((0, 2)) if is_largest else own.sum((0, 2)))
    np.testing.assert_allclose(scores_in(text), np.concatenate(expected), atol=2e-5)


@pytest.mark.parametrize("name", EXECUTORS)
def test_queries_add_up(make, name):
    """Sums and products of queries behind the first three tokens, after norms, not turned."""
    _, executor = make("llama", name)
    seen = inputs_of(executor)
    heads, dim = seen[0].queries.shape[1:]
    sums = np.zeros((heads * len(seen), dim + dim * dim), np.float32)
    run(executor, lambda first, count: EntryNotes(queries=sums, first_query=3))
    expected = []
    for own in seen:
        for head in range(heads):
            rows = own.queries[3:, head].astype(np.float64)
            expected.append(np.concatenate([rows.sum(0), (rows.T @ rows).ravel()]))
    np.testing.assert_allclose(sums, np.asarray(expected), atol=1e-3)


@pytest.mark.skipif("native" not in EXECUTORS, reason="no compiler")
def test_notes_have_the_same_bits_however_rows_are_cut(make):
    """In the native step they depend on neither steps nor threads nor what is beside."""
    _, executor = make("llama", "native")
    widths = [sum(p[0].size for p in one[:3]) for one in inputs_of(executor)]
    executor.add_heads("own", drawn_heads(executor, "mlp", "projections", widths))
    for notes in (EntryNotes("heads", "own"), EntryNotes("zero", "", 0), EntryNotes("key_norm")):
        found = [
            scores_in(run(executor, lambda f, c, n=notes: n, is_beside=beside))
            for beside in (False, True)
        ]
        np.testing.assert_array_equal(*found)
    whole = texts_in(executor, "fp32", 1)
    whole[0].grow(TOKENS)
    rows = step_of(whole, [len(TOKENS)])
    heads = rows.heads._replace(notes=(EntryNotes("heads", "own"),))
    executor.forward(rows._replace(heads=heads), whole[0].store)
    parts = run(executor, lambda first, count: EntryNotes("heads", "own"))
    np.testing.assert_array_equal(scores_in(whole[0]), scores_in(parts))


@pytest.mark.parametrize("name", EXECUTORS)
def test_heads_of_another_model_are_refused(make, name):
    _, executor = make("llama", name)
    inputs = [one.hidden.shape[1] for one in inputs_of(executor)]
    heads = drawn_heads(executor, "linear", "hidden", [size + 1 for size in inputs])
    with pytest.raises(CheckpointError, match=r"layer 0 have a 'first' of .* train them on"):
        executor.add_heads("own", heads)
    with pytest.raises(CheckpointError, match=r"of 1 layers, and this one has"):
        executor.add_heads("own", heads._replace(layers=heads.layers[:1]))


def test_a_model_of_one_matrix_shows_no_queries(make):
    """gpt2's queries, keys and values come out of one matrix: what reads them is refused."""
    _, executor = make("gpt2", "generic")
    own = inputs_of(executor)[0]
    assert own.queries is None
    assert own.values.shape == own.turned_keys.shape
    heads = RetainingHeads("mlp", "projections", "silu", ())
    with pytest.raises(UnsupportedModelError, match="no matrices q_proj"):
        executor.add_heads("own", heads)


assert len(TOKENS) > PAGE
