"""Data sets: the folder format, building, reviewing, splitting and exchanging them."""
