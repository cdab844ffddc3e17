"""Finished and running runs as one page: what they learned and how they differ."""
