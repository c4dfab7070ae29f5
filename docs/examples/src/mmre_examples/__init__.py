"""A plugin of each stage, for an experiment on captions."""
