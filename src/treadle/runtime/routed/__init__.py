"""Several models behind a router: one of them answers each prompt."""
