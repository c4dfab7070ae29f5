"""Trainers: plugins that train a model on rendered samples."""
