"""The recipe: mergekit's grammar, read strictly, and what each tensor's settings are."""
