"""How answers are decoded on this machine: batches, and continuous batching; used by the generator `transformers`."""
