"""Checkpoints in the form of PyTorch, read and written without it."""
