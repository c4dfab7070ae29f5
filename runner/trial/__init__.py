"""One trial: its run directory, its event log, its three steps, and the cache of artifacts that trials share."""
