"""TF-Slim's Inception checkpoints, alive in Keras 3."""

__version__ = "0.1.0"
