"""Tune: teach a model - by answers, by preferences, or by another model."""

from treadle.learn.tune.apply import tune
from treadle.learn.tune.fresh import FreshSettings, fresh
from treadle.learn.tune.tables import LEARNERS, METHODS

__all__ = ["LEARNERS", "METHODS", "FreshSettings", "fresh", "tune"]
