"""Finished and running runs as one page: what they learnt, how they differ, and what they see."""
