"""Which trials a sweep runs, and what it remembers of them: the only room that knows Optuna."""
