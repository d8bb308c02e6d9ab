"""The command line, built from the verb table and the app's commands: no flag is written here."""

from treadle.cli.program import build, main

__all__ = ["build", "main"]
