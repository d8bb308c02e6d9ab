"""The native step: a whole forward pass of a Llama-shaped decoder in one call of C."""
