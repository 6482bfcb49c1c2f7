"""Flower's side of a run, written once for all methods."""
