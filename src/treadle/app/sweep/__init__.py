"""`treadle sweep`: the steps of a recipe over a product of methods, settings, models and seeds."""

from treadle.app.sweep.apply import sweep

__all__ = ["sweep"]
