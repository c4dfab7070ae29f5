"""Ways to fit a model to rendered samples."""
