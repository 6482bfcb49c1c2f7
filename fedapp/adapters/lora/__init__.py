"""Low-rank updates of linear layers, and their kin."""
