"""Ahead-of-time compilation of the train step for absent hardware, and the report on it."""
