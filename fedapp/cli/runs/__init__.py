"""Commands on runs that have ended."""
