"""A random part: of the right size, by the id alone, nested, and with an exact remainder."""

import numpy as np
import pytest
import xxhash
from tests.text.curate import corpora

from treadle import curate
from treadle.core.seed import stream_seed

ROWS = [{"id": f"d{n}", "text": f"text {n}"} for n in range(2000)]


def kept(tmp_path, rows=ROWS, **options):
    data = corpora.write_lines(tmp_path / "a.jsonl", rows)
    curate(data, tmp_path / "out", {"method": "sample", **options}, overwrite=True)
    return [row["id"] for row in corpora.kept(tmp_path / "out")]


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_the_size_is_that_of_a_fair_draw(tmp_path, fraction):
    error = np.sqrt(fraction * (1 - fraction) * len(ROWS))
    assert abs(len(kept(tmp_path, fraction=fraction)) - fraction * len(ROWS)) < 4 * error


def test_the_draw_follows_the_definition(tmp_path):
    seed = stream_seed(3, "sample")
    digests = [xxhash.xxh3_128_digest(f"{seed} {row['id']}".encode()) for row in ROWS]
    drawn = [int.from_bytes(one[:8], "little") / 2**64 < 0.25 for one in digests]
    expected = [row["id"] for row, is_drawn in zip(ROWS, drawn, strict=True) if is_drawn]
    assert kept(tmp_path, fraction=0.25, seed=3) == expected


def test_samples_are_nested_and_the_remainder_is_exact(tmp_path):
    small, large = (kept(tmp_path, fraction=f) for f in (0.1, 0.4))
    others = kept(tmp_path, fraction=0.1, invert=True)
    assert set(small) < set(large)
    assert set(small) | set(others) == {row["id"] for row in ROWS}
    assert not set(small) & set(others)


def test_other_documents_and_their_order_do_not_matter(tmp_path):
    half = kept(tmp_path, ROWS[::-2], fraction=0.3)
    assert set(half) == set(kept(tmp_path, fraction=0.3)) & {row["id"] for row in ROWS[::-2]}


def test_all_or_nothing(tmp_path):
    assert len(kept(tmp_path, fraction=1.0)) == len(ROWS)
    assert kept(tmp_path, fraction=0.0) == kept(tmp_path, fraction=1.0, invert=True) == []
    assert kept(tmp_path, fraction=0.5) != kept(tmp_path, fraction=0.5, seed=1)
