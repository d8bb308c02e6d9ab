"""Prepare: a pool of models answers questions, and how well becomes the records of routers."""

from treadle.combine.route.prepare.apply import route_prepare

__all__ = ["route_prepare"]
