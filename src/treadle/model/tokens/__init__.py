"""Text to tokens and back, and conversations to texts, without transformers where that is right."""
