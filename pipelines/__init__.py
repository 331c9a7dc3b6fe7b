"""Language models from scratch, from one recipe."""
