"""Prompts, targets and the way back from an answer."""
