"""What would keep a run from working, and what to do about it."""
