"""Training objectives: the preprocessing of an example and its loss, side by side."""
