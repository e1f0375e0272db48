"""Measurements of a model: evaluators that run while training and after."""
