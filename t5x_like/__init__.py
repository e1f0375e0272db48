"""Pre-train models in JAX and trust the result."""

__version__ = "0.1.0"
