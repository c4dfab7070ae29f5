"""The samples of a spec as the model gets them, for a person to look at."""
