"""Tracking: uploads runs to the tracker, and catches up what earlier launches could not upload."""
