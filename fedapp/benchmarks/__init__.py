"""Benchmarks: a data set, a prompt template and a metric each."""
