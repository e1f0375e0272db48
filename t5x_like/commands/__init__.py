"""One thin module a command: `add_parser` describes its flags, `run` does it. Heavy imports happen inside `run`."""
