"""What rows of a step share of the cache: found in their page tables, planned, and counted."""
