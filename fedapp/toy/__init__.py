"""A whole world without torch: models, adapters, data for dry runs and tests."""
