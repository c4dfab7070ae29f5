"""Comparisons of finished runs: statistics, tables, plots and a page."""
