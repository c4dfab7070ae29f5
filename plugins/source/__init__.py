"""Published corpora that `runner build` imports."""
