"""The real train step compiled for hardware that is not here, and what the compiler says about it."""
