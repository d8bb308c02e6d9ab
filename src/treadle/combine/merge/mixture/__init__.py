"""Dense models become one mixture of experts, in a layout that transformers has."""
