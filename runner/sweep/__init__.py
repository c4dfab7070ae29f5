"""Sweeps: which trials to run. The only room that imports Optuna."""
