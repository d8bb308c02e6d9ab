"""Text in, vectors out: hashed n-grams, static embeddings, a model's states, or an encoder."""
