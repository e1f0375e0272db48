"""Attention backends by platform, and memory barriers between products."""
