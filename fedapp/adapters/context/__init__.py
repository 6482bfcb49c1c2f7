"""Context vectors, injected into every layer."""
