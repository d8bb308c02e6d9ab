"""Drafts: what may follow a text, guessed cheaply, so that one step can verify many tokens."""
