"""What an answer is worth against its reference."""
