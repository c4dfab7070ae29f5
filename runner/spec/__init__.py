"""The contract: what a spec may say, how it is read with its line numbers, and what is wrong with it."""
