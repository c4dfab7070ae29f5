"""Status: which experiments and trials are running, how far they are, and how to stop them."""
