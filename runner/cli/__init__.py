"""The command line: commands, and what they print in a terminal."""
