"""What methods compute with: task vectors, thinning, orders, products, weights."""
