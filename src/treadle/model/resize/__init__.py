"""Models that become smaller: narrower blocks, and fewer of them."""
