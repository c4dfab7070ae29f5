"""The proof before training: in real samples, what carries loss is the answer and nothing else."""
