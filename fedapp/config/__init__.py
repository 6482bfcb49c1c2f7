"""Hydra's tree, and objects from its nodes."""
