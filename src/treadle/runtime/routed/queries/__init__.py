"""Which model answers a query: frozen scorers that were made by `treadle route`."""

from treadle.runtime.routed.queries.folder import load_router
from treadle.runtime.routed.queries.query import QueryRouter

__all__ = ["QueryRouter", "load_router"]
