"""Finished runs as one page: what is read of them, the figures, the page."""
