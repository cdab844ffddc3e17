"""The tables of the paper: what they need, running it, and showing it."""
