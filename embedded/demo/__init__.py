"""Sample events, and the check of what became of each."""
