"""Bottom floor: files and numbers. Imports neither torch (at module level) nor transformers."""
