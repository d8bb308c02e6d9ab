"""The only floor that touches transformers' inside."""
