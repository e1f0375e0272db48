"""Reading compiled programs: XLA's own text of what a device will run, in the order it will run it."""
