"""The tables of the paper: their definitions, their runs and their output files."""
