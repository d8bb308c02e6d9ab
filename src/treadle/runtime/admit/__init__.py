"""Who is let in first: policies that order waiting requests."""
