"""/v1/messages: Anthropic's interface, over the same conversations."""
