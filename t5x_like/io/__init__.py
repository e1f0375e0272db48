"""Files of a work directory: written whole or not at all, and read back whatever happened to them.

files   atomic writes, tolerant reads, destinations that are proved writable before anything is written
lease   which process tree owns a work directory
"""
