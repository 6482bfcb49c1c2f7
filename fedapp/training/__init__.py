"""How an adapter is trained and how a model answers; torch."""
