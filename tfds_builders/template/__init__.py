"""A builder to copy: see docs/own_data.md."""
