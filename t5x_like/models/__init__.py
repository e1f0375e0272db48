"""The one transformer stack, its parts, and the families that are tables of its fields."""
