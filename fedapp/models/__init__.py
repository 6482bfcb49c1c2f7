"""Frozen base models and their tokenizers."""
