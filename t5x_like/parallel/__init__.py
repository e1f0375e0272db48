"""Meshes, logical axis rules, and what is known of each parameter."""
