"""From logits to answers: sampling, constraints, text, outputs, vectors."""
