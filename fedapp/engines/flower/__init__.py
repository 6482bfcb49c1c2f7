"""Flower's simulation engine, driven from outside."""
