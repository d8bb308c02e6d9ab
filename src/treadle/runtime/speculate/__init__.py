"""Drafts in an engine: when they are asked for, how many run, what came of them."""
