"""What plugins share that ask servers for answers; no stage of its own."""
