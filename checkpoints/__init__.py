"""The catalogue of the published checkpoints, beside the place where they land in a source checkout."""
