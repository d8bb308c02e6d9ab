"""Searches on an engine: they begin, are driven, and end."""
