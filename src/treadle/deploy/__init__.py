"""Wing: serve one model or many."""
