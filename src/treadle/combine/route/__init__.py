"""Route: which of several models answers a query."""
