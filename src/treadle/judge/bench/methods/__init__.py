"""One way of measuring a file."""
