"""Finished runs side by side: groups, curves over bytes, paired tests, the formats of a table."""
