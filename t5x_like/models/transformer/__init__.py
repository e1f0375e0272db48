"""Transformers: one stack of layers for encoders, decoders and both."""
