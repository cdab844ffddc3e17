"""An HTML page and summary tables of finished and running runs."""
