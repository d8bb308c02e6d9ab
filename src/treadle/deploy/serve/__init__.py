"""Serve: models behind an HTTP interface that OpenAI's clients know."""

from treadle.deploy.serve.apply import serve
from treadle.deploy.serve.probe import probe

__all__ = ["probe", "serve"]
