"""How matrices are held and multiplied: floats, codes, low-rank changes."""
