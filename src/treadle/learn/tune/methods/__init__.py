"""One method a file: what is lowered, and what learns."""
