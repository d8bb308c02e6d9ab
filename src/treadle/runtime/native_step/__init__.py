"""The native step: a whole forward pass of a decoder in one call of C."""
