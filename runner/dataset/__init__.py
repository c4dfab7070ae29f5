"""Data sets as folders: read, written, split and checked for leaks, and built from published corpora."""
