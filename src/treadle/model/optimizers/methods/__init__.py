"""One published optimizer a file."""
