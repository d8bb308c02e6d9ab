"""Text: which documents are worth training on, in what mix, in what order."""
