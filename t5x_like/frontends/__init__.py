"""Two ways to spell an Experiment: Python files with `--config.*` flags, and gin. Nothing else."""
