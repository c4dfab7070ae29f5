"""The engine: it turns an experiment spec into trials and runs them; it knows no model, data set or metric."""

__version__ = "0.1.0"
