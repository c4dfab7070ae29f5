"""Reads results back and tells how sure a difference between them is: statistics, tables, figures, a page."""
