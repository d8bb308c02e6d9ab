"""A conversation goes on: templates, tools, thoughts, and the answer in pieces."""
