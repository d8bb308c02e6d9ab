"""Tokenizers and vocabularies that become one, and the rows that move with them."""
