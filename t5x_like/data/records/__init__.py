"""Records: images, sound, pairs and preferences, read by index from files of several formats."""
