"""The control drafts nothing."""

from treadle.runtime.draft.tables import DRAFTERS


def test_it_knows_nothing_and_drafts_nothing():
    assert DRAFTERS.resolve("none").open(9) is None
