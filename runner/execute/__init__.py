"""Places trials and runs them: in this process, or on Ray."""
