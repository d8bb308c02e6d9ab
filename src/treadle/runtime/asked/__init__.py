"""What is asked of an engine, apart from how it stands with it."""
