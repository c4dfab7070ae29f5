"""What a launch would do, worked out before it: steps, tokens, memory, hours, and what is lacking."""
