"""What is kept of the cache: policies that drop entries of each layer and KV head."""
