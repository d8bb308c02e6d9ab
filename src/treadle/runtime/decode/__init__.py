"""Decoding along several branches: trees of tokens, and who says where they grow."""
