"""The gin spelling: T5X's files and flags, evaluated as gin would and translated to an experiment."""
