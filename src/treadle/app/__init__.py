"""Commands that are no verbs: they look at the installation and at results, and make no model."""
