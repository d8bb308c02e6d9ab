"""A zoo of models becomes one: clusters, a search of weights in each, a choice among them."""
