"""Data sets to train and test on."""
