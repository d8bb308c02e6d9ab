"""Tables of each layer and KV head with unequal lengths, in both executors, against transformers
with a mask: straight on `StepRows`, no scheduler between."""

import numpy as np
import pytest

from naive import tokens_of
from runtime.masked import masked_logits
from treadle.native.loader import library
from treadle.runtime.cache.device import DeviceKeyValues
from treadle.runtime.cache.entries import HeadEntries
from treadle.runtime.cache.pages import KeyValues, PagePool
from treadle.runtime.cache.planes import PlanePool
from treadle.runtime.executor import Executor, HeadTables, StepRows
from treadle.runtime.native_step.llama import LlamaStep
from treadle.runtime.transformers_step.generic import GenericExecutor

EXECUTORS = ["generic", *(["native"] if library("step") is not None else [])]
TOLERANCE = {"fp32": 1e-4, "fp16": 0.05, "int8": 0.6, "int4": 8.0}
PAGE = 8


@pytest.fixture(scope="module")
def make(tiny_model):
    """Return a function from an architecture and an executor's name to both of its parts."""
    made: dict[tuple[str, str], Executor] = {}

    def build(architecture: str, name: str):
        folder, key = tiny_model(architecture), (architecture, name)
        if key not in made:
            is_native = name == "native"
            made[key] = (
                LlamaStep(folder, "fp32", 2) if is_native else GenericExecutor.from_folder(folder)
            )
        return folder, made[key]

    return build


class Text:
    """One text whose heads drop what they are told to; it notes what each token could see."""

    def __init__(self, executor: Executor, store: KeyValues, planes: PlanePool) -> None:
        self.executor, self.store, self.planes = executor, store, planes
        self.entries = HeadEntries.empty(store.num_heads)
        self.tokens: list[int] = []
        self.seen: list[np.ndarray] = []
        """For each token [heads, tokens so far]."""
        self.kept = np.zeros((store.num_heads, 0), np.bool_)

    def grow(self, tokens: list[int]) -> None:
        missing = self.entries.missing(len(tokens), PAGE)
        self.entries.give(missing, self.planes.allocate(int(missing.sum())))
        self.entries.lengths += len(tokens)
        for _ in tokens:
            self.kept = np.pad(self.kept, ((0, 0), (0, 1)), constant_values=True)
            self.seen.append(self.kept.copy())
        self.tokens += tokens

    def drop(self, draw: np.random.Generator) -> None:
        """Drop each entry with a chance of its head's own; some heads lose all."""
        positions = self.entries.positions(self.store)
        chance = draw.choice([0.0, 0.3, 0.6, 1.0], len(positions))[:, None]
        is_kept = draw.random(positions.shape) >= chance
        self.entries.keep(is_kept & (positions >= 0), self.store)
        self.planes.release(self.entries.trim(PAGE))
        for head, own in enumerate(self.entries.positions(self.store)):
            self.kept[head] = np.isin(np.arange(len(self.tokens)), own)

    def expected(self, folder) -> np.ndarray:
        count = len(self.tokens)
        all_heads = np.stack([np.pad(s, ((0, 0), (0, count - s.shape[1]))) for s in self.seen], 1)
        cuts = np.cumsum(self.store.kv_heads)[:-1]
        return masked_logits(folder, self.tokens, np.split(all_heads, cuts))


def step_of(texts: list[Text], counts: list[int]) -> StepRows:
    """The last `counts` tokens of each text, which holds their planes already."""
    most = max(text.entries.planes.shape[1] for text in texts)
    tables = [
        np.pad(t.entries.planes, ((0, 0), (0, most - t.entries.planes.shape[1]))) for t in texts
    ]
    firsts = [len(text.tokens) - count for text, count in zip(texts, counts, strict=True)]
    total = sum(counts)

    def ints(values):
        return np.asarray(values, np.int32)

    return StepRows(
        ints([t for text, f in zip(texts, firsts, strict=True) for t in text.tokens[f:]]),
        ints([p for f, count in zip(firsts, counts, strict=True) for p in range(f, f + count)]),
        np.full(total, -1, np.int32),
        ints([0, *np.cumsum(counts)]),
        ints([text.entries.longest for text in texts]),
        np.zeros(len(texts) + 1, np.int32),
        ints([]),
        np.arange(total, dtype=np.int32),
        heads=HeadTables(
            np.arange(len(texts), dtype=np.int32),
            np.stack([text.entries.lengths for text in texts]).astype(np.int32),
            np.stack(tables).astype(np.int32),
        ),
    )


def texts_in(executor: Executor, dtype: str, count: int) -> list[Text]:
    store = KeyValues(executor.shape.kv_heads, executor.shape.head_dim, 40, PAGE, dtype)
    planes = PlanePool(PagePool(store))
    return [Text(executor, store, planes) for _ in range(count)]


@pytest.mark.parametrize("name", EXECUTORS)
@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen3", "gemma2"])
def test_each_head_sees_what_it_kept(make, architecture, name):
    """Two texts beside each other, chunks and single rows, heads of unequal lengths."""
    folder, executor = make(architecture, name)
    draw = np.random.default_rng(0)
    texts = texts_in(executor, "fp32", 2)
    fresh = iter(tokens_of(1, 400)[0].tolist())
    found: list[list[np.ndarray]] = [[], []]
    for counts in ([20, 9], [1, 12], [1, 1], [15, 1], [1, 1], [3, 17]):
        for text, count in zip(texts, counts, strict=True):
            text.grow([next(fresh) for _ in range(count)])
        logits = executor.forward(step_of(texts, counts), texts[0].store)
        for own, part in zip(found, np.split(logits, counts[:1]), strict=True):
            own.append(part)
        for text in texts:
            text.drop(draw)
    assert len(set(texts[0].entries.lengths.tolist())) > 1
    for text, own in zip(texts, found, strict=True):
        np.testing.assert_allclose(np.concatenate(own), text.expected(folder), atol=1e-4)


@pytest.mark.parametrize("name", EXECUTORS)
@pytest.mark.parametrize("dtype", ["fp16", "int8", "int4"])
@pytest.mark.parametrize("architecture", ["llama", "mistral"])
def test_narrow_caches_stay_close(make, architecture, dtype, name):
    folder, executor = make(architecture, name)
    (text,) = texts_in(executor, dtype, 1)
    found = []
    for number, count in enumerate((24, 8, 1, 13)):
        text.grow(tokens_of(1, count, number)[0].tolist())
        found.append(executor.forward(step_of([text], [count]), text.store))
        text.drop(np.random.default_rng(number))
    expected = text.expected(folder)
    np.testing.assert_allclose(np.concatenate(found), expected, atol=TOLERANCE[dtype])


@pytest.mark.skipif("native" not in EXECUTORS, reason="needs a C compiler")
def test_both_executors_agree_on_mixed_steps(make):
    """Beside a text with one table for all heads; each reads what the other wrote."""
    executors = [make("mistral", name)[1] for name in ("generic", "native")]
    (text,) = texts_in(executors[0], "fp32", 1)
    pages = text.planes._pool.allocate(5)
    plain, first = tokens_of(1, 40, 5)[0].tolist(), 0
    for number, (count, own) in enumerate(((20, 24), (9, 1), (1, 9))):
        text.grow(tokens_of(1, count, number)[0].tolist())
        rows = step_of([text], [count])
        place = np.arange(first, first + own, dtype=np.int32)
        table = np.asarray(pages, np.int32)
        mixed = StepRows(
            np.concatenate([np.asarray(plain, np.int32)[place], rows.tokens]),
            np.concatenate([place, rows.positions]),
            np.concatenate([table[place // PAGE] * PAGE + place % PAGE, rows.slots]),
            np.asarray([0, own, own + count], np.int32),
            np.asarray([first + own, rows.context_lengths[0]], np.int32),
            np.asarray([0, len(pages), len(pages)], np.int32),
            table,
            np.arange(own + count, dtype=np.int32),
            heads=rows.heads._replace(numbers=np.asarray([-1, 0], np.int32)),
        )
        found = [executor.forward(mixed, text.store) for executor in executors]
        np.testing.assert_allclose(found[0], found[1], atol=1e-4)
        alone = executors[1].forward(rows, text.store)
        np.testing.assert_array_equal(alone, found[1][own:])
        text.drop(np.random.default_rng(number))
        first += own


@pytest.mark.parametrize("name", EXECUTORS)
@pytest.mark.parametrize("architecture", ["llama", "mistral"])
def test_a_tree_behind_unequal_heads(make, architecture, name):
    """Two branches of two tokens behind a text that dropped entries: each as if it were alone."""
    folder, executor = make(architecture, name)
    branches, answers = [[11, 12], [13, 14]], []
    for branch in branches:
        (text,) = texts_in(executor, "fp32", 1)
        text.grow(tokens_of(1, 30)[0].tolist())
        executor.forward(step_of([text], [30]), text.store)
        text.drop(np.random.default_rng(3))
        text.grow(branch)
        answers.append(executor.forward(step_of([text], [2]), text.store))
        np.testing.assert_allclose(answers[-1], text.expected(folder)[30:], atol=1e-4)
    (text,) = texts_in(executor, "fp32", 1)
    text.grow(tokens_of(1, 30)[0].tolist())
    executor.forward(step_of([text], [30]), text.store)
    text.drop(np.random.default_rng(3))
    text.grow(branches[0] + branches[1])
    rows = step_of([text], [4])
    rows = rows._replace(
        positions=np.asarray([30, 31, 30, 31], np.int32),
        prefix_lengths=rows.context_lengths - np.int32(4),
        ancestors=np.asarray([[0b1], [0b11], [0b100], [0b1100]], np.uint64),
    )
    found = executor.forward(rows, text.store)
    np.testing.assert_allclose(found, np.concatenate(answers), atol=1e-4)


@pytest.mark.parametrize("name", EXECUTORS)
def test_positions_come_from_the_pool(make, name):
    """A text that dropped its first page for all heads, under a window: a slot is no position."""
    folder, executor = make("mistral", name)
    tokens = tokens_of(1, 40)[0].tolist()
    store = KeyValues(executor.shape.kv_heads, executor.shape.head_dim, 5, PAGE)
    place = np.arange(40, dtype=np.int32)

    def rows(first, last, dropped, pages):
        own, slot = place[first:last], place[first:last] - dropped
        table = np.asarray(pages, np.int32)
        return StepRows(
            np.asarray(tokens, np.int32)[own],
            own,
            table[slot // PAGE] * PAGE + slot % PAGE,
            np.asarray([0, len(own)], np.int32),
            np.asarray([last - dropped], np.int32),
            np.asarray([0, len(pages)], np.int32),
            table,
            np.arange(len(own), dtype=np.int32),
        )

    executor.forward(rows(0, 32, 0, [0, 1, 2, 3]), store)
    found = executor.forward(rows(32, 39, PAGE, [1, 2, 3, 4]), store)
    (last,) = executor.forward(rows(39, 40, PAGE, [1, 2, 3, 4]), store)
    visible = np.tril(np.ones((40, 40), np.bool_))
    visible[32:, :PAGE] = False
    expected = masked_logits(folder, tokens, [visible[None].repeat(2, 0)] * 2)
    np.testing.assert_allclose(found, expected[32:39], atol=1e-4)
    np.testing.assert_allclose(last, expected[39], atol=1e-4)
    # Rows that attend together: twice the same text, as two requests of one row each.
    one = rows(39, 40, PAGE, [1, 2, 3, 4])
    twice = StepRows(
        *(np.tile(array, 2) for array in one[:3]),
        np.asarray([0, 1, 2], np.int32),
        np.tile(one.context_lengths, 2),
        np.asarray([0, 4, 8], np.int32),
        np.tile(one.pages, 2),
        np.asarray([0, 1], np.int32),
    )
    both = executor.forward(twice, store)
    np.testing.assert_allclose(both, expected[[39, 39]], atol=1e-4)


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_tensors_of_a_device_hold_what_arrays_hold(make, dtype):
    """The store of a CUDA device, here on the CPU: moved, read and written like the other."""
    _, executor = make("mistral", "generic")
    shape, found = executor.shape, []
    for device in (None, "cpu"):
        settings = (shape.kv_heads, shape.head_dim, 40, PAGE, dtype)
        store = KeyValues(*settings) if device is None else DeviceKeyValues(*settings, device)
        text = Text(executor, store, PlanePool(PagePool(store)))
        logits = []
        for number, count in enumerate((24, 8, 1, 13)):
            text.grow(tokens_of(1, count, number)[0].tolist())
            logits.append(executor.forward(step_of([text], [count]), store))
            text.drop(np.random.default_rng(number))
        store.move([0, 9], [9, 17])
        content = store.read_planes(text.entries.held)
        store.write_planes(text.entries.held, content)
        found.append((np.concatenate(logits), content + store.read([0, 2])))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    for left, right in zip(found[0][1], found[1][1], strict=True):
        np.testing.assert_array_equal(left, right)
