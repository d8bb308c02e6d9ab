"""What a router is worth on questions that it was not made of."""
