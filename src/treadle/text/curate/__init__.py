"""Curate: may this document stay? Is it a copy? Every drop says why, every copy of what."""

from treadle.text.curate.apply import curate
from treadle.text.curate.pack import pack
from treadle.text.curate.replay import replay
from treadle.text.curate.tables import METHODS
from treadle.text.curate.trial import trial

__all__ = ["METHODS", "curate", "pack", "replay", "trial"]
