"""Specs: YAML with source positions, validation against the installed plugins, sweeps, JSON Schema."""
