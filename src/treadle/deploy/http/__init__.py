"""What every HTTP service here shares: schemas, errors, streams, the gate, the drain."""
