"""What is read: models, adapters, their tensors, their configs, what is known of their data."""
