"""Two plugins that live outside the project."""
