"""Benchmarks that are made on the spot, for the models that come with the project."""
