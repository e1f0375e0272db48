"""Adaptations: changes to a model that was built, with variables of their own that are trained in place of its."""
