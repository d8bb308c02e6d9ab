"""One way of routing a file."""
