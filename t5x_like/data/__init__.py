"""Data: tasks and their vocabularies, the order of the examples, packing, and the input pipeline."""
