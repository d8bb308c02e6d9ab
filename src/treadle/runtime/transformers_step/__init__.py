"""The step of any architecture: transformers' blocks over paged keys and values."""
