"""Your own sequences: array files and one table of labels, in any declared joint layout."""
