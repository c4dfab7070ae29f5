"""What lies in an experiment's folder: how its trials stand, who is at it, and how that is stopped."""
