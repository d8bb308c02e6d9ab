"""One published way of merging a file."""
