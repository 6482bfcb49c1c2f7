"""The reasoning benchmarks of LLM-Adapters."""
