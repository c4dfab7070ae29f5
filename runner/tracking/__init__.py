"""Feeds the tracker out of the logs of runs, while they run and afterwards."""
