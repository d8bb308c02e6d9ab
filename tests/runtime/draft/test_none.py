"""The control drafts nothing."""

from treadle.runtime.draft.base import DraftTarget
from treadle.runtime.draft.tables import DRAFTERS


def test_it_knows_nothing_and_drafts_nothing():
    assert DRAFTERS.resolve("none").open(DraftTarget(9)) is None
