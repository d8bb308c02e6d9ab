"""/v1/responses: OpenAI's interface for agents, over the same conversations."""
