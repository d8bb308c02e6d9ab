"""Route: which model answers this query? Routers from scores, and what they are worth."""

from treadle.combine.route.apply import route
from treadle.combine.route.judged.apply import route_evaluate
from treadle.combine.route.prepare.apply import route_prepare
from treadle.combine.route.tables import METHODS

__all__ = ["METHODS", "route", "route_evaluate", "route_prepare"]
