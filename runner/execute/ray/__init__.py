"""Execution on Ray. The only room that imports Ray."""
