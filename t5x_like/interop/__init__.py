"""Other people's formats and names."""
