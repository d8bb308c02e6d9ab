"""Wing: fewer weights, fewer bits, less work."""
