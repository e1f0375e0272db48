"""In-context evaluation: tasks as small files, asked of any checkpoint with some examples in front."""
