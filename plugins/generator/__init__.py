"""Generators: plugins that produce a model's answers to prompts."""
