"""What the entry points call."""
