"""Cached keys and values: pages, planes and entries of each head, the tree of prefixes."""
