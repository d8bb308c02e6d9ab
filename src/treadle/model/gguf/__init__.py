"""GGUF files as checkpoints: their bytes, their settings, their tokenizers."""
