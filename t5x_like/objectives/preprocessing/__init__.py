"""Preprocessing of text objectives: tokens and a random generator in, the features of one example out.

Every objective here is a frozen dataclass of options that is called with a record's tokens, integers [n], and a
generator, and returns its features as NumPy arrays; same tokens and same state of the generator, same features. An
empty dict says that the record has nothing to make an example of. Nothing here imports JAX.

Names of features:
  inputs: int32, what the model (or its encoder) reads.
  targets: int32, what it predicts; where inputs and targets are of one length they stand side by side.
  weights: int32, 1 where a target counts and 0 where it is context.

An encoder-decoder's decoder reads its targets shifted by one, which `single_sequence.shift_right` does; its `join`
makes one sequence of inputs and targets for a decoder alone.
"""
