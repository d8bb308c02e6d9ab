"""Combine: merge models into one, route between them, edit what one knows."""
