"""Routers: where the rows of a gate come from, one way a file."""
