"""Runs trials on Ray; the one room of the engine that imports it."""
