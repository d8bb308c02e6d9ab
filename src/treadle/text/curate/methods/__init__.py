"""One published way of curating a file."""
