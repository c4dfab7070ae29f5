"""Example plugins: one for each stage."""
