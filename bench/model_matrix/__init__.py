"""Tests every image-text-to-text model type of transformers with small random models; writes the table of the docs."""
