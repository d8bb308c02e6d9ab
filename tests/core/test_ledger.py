"""The ledger against the whole order written out, naively, in loops."""

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.core.errors import DataError, SettingsError
from treadle.core.ledger import Ledger, RowOrder, open_ledger
from treadle.core.pack import TokenFile


def ledger(sizes, seq_len=4, rows=3, is_shuffled=True, seed=0):
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    order = RowOrder(
        seq_len=seq_len,
        rows=rows,
        seed=seed,
        is_shuffled=is_shuffled,
        vocab_size=60000,
        end_token=0,
        tokenizer_hash="",
    )
    return Ledger(TokenFile(np.arange(starts[-1], dtype=np.uint16), starts), order, Path("packed"))


SIZES = st.lists(st.integers(1, 9), min_size=3, max_size=30).filter(lambda sizes: sum(sizes) > 9)


@given(SIZES, st.integers(1, 8), st.integers(1, 7), st.booleans())
def test_what_was_seen_is_what_the_batch_holds(sizes, seq_len, rows, is_shuffled):
    made = ledger(sizes, seq_len, rows, is_shuffled)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    for step in range(5):
        batch = made.batch(step)  # token i stands at place i, so that places can be read off
        expected = []
        for slot, row in enumerate(batch.tolist()):
            for place, token in enumerate(row):
                document = int(owner[token])
                inside = token - int(made.tokens.starts[document])
                if place and expected[-1][1] == document:
                    expected[-1][3] += 1
                else:
                    expected.append([slot, document, inside, 1, place])
        seen = made.what_was_seen(step)
        found = zip(*(column.tolist() for column in seen), strict=True)
        assert [[s, d, start, n, at] for s, _, d, start, n, at in found] == expected
        assert (seen.row == made.rows_of(step)[seen.slot]).all()


@given(SIZES, st.integers(1, 8), st.integers(1, 7), st.booleans(), st.integers(0, 12))
def test_a_document_is_found_and_counted(sizes, seq_len, rows, is_shuffled, steps):
    made = ledger(sizes, seq_len, rows, is_shuffled)
    inputs = np.zeros(sum(sizes), int)
    places = [[] for _ in sizes]
    for step in range(-(-made.num_rows // rows)):
        seen = made.what_was_seen(step)
        for slot, document in zip(seen.slot.tolist(), seen.document.tolist(), strict=True):
            if step * rows + slot < made.num_rows:
                places[document].append((step, slot))
    for step in range(steps):
        np.add.at(inputs, made.batch(step)[:, :-1].astype(int), 1)
    for document in range(len(sizes)):
        start, stop = made.tokens.starts[document : document + 2]
        assert made.where(document) == places[document]
        assert made.tokens_seen(document, steps) == inputs[start:stop].sum()


def test_an_epoch_has_every_row_once_and_the_next_one_another_order():
    made = ledger([7] * 60, rows=5)
    epochs = np.concatenate([made.rows_of(step) for step in range(2 * made.num_rows)])
    first, second = epochs[: made.num_rows], epochs[made.num_rows : 2 * made.num_rows]
    assert sorted(first) == sorted(second) == list(range(made.num_rows))
    assert (first != second).any()
    given_order = ledger([7] * 60, rows=5, is_shuffled=False)
    assert given_order.rows_of(1).tolist() == [5, 6, 7, 8, 9]


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_any_number_of_ranks_shares_a_step(world):
    made = ledger([11] * 40, rows=8)
    whole = made.batch(3)
    for rank in range(world):
        assert (made.batch(3, rank, world) == whole[rank::world]).all()


def test_the_digest_is_that_of_the_tokens():
    import xxhash

    made = ledger([11] * 40)
    assert made.digest(2) == xxhash.xxh3_128_hexdigest(made.batch(2).astype("<u2").tobytes())
    assert made.digest(2) != made.digest(3)
    assert made.digest(2) == ledger([11] * 40).digest(2) != ledger([11] * 40, seed=1).digest(2)


def least_seconds(run) -> float:
    seconds = []
    for number in range(20):
        began = time.process_time()
        run(number)
        seconds.append(time.process_time() - began)
    return min(seconds)


def test_a_large_step_is_answered_as_fast_as_its_tokens_are_copied():
    """About a millisecond, whatever the machine: a bound in seconds fails on a slow one."""
    made = ledger(np.full(60_000, 1000), 2048, 1024)
    made.what_was_seen(0)
    tokens = np.ones(2048 * 1024, np.uint16)
    copying = least_seconds(lambda _: tokens.astype(np.int64))
    assert least_seconds(made.what_was_seen) < 2 * copying


def test_what_does_not_exist_is_refused(tmp_path):
    made = ledger([11] * 40)
    with pytest.raises(SettingsError, match="Step -1"):
        made.rows_of(-1)
    with pytest.raises(SettingsError, match="rank 2 of 2"):
        made.rows_of(0, 2, 2)
    with pytest.raises(DataError, match="no document 40; it has 40"):
        made.where(40)
    with pytest.raises(DataError, match=r"too few for a row of 5"):
        ledger([4])
    with pytest.raises(DataError, match=r"No order.json in"):
        open_ledger(tmp_path)
    (tmp_path / "order.json").write_text("{}")
    with pytest.raises(DataError, match="not what treadle wrote"):
        open_ledger(tmp_path)
