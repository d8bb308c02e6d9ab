"""Serve: models behind an HTTP interface that OpenAI's clients know."""

from treadle.deploy.serve.apply import serve

__all__ = ["serve"]
