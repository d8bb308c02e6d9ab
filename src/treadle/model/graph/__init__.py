"""A whole training step as a graph: captured from any module, kept as JSON, read without torch."""
