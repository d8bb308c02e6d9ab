"""Ways to search the weights of a merge, one paper a file."""
