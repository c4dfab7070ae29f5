"""Where runs are shown and compared."""
