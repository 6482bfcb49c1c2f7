"""fedapp: federated adaptation of language models on Flower."""

__version__ = "0.1.0"
