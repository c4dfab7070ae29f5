"""Adapters: prompts, targets, and the parsing of answers."""
