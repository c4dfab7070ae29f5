"""Trackers that log runs."""
