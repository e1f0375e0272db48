"""The text of a compiled program, also of one whose executable libtpu refuses to give it back.

A program that moves a gather to the SparseCores holds `async-update` instructions with more operands than the reader of
HLO's protocol buffers allows, so `Compiled.as_text()` fails on it (libtpu 0.0.51, on chips that have such cores). The
compiler itself writes the same text to a directory when it is asked to, and there it is read.
"""

import tempfile
from pathlib import Path
from typing import Any

from t5x_like.errors import UserError
from t5x_like.parallel.chips import Chip

_WRITTEN = "*.after_codegen.txt"


def compile_and_read(lowered: Any, chip: Chip) -> tuple[Any, str]:
    """A compiled program and its text, that of the schedule with the compiler's estimates.

    Args:
      lowered: JAX's `Lowered`.
      chip: the program is for.

    Returns:
      JAX's `Compiled`, and optimised HLO.

    Raises:
      UserError: where the compiler can be made to give no text.
    """
    if not chip.sparse_cores:
        compiled = lowered.compile()
        return compiled, compiled.as_text()
    with tempfile.TemporaryDirectory(prefix="hlo-") as directory:
        compiled = lowered.compile({"xla_dump_to": directory, "xla_dump_hlo_as_text": True})
        return compiled, _read(Path(directory), chip)


def _read(directory: Path, chip: Chip) -> str:
    """The text of the largest program written: parts that are compiled by themselves are written too."""
    files = sorted(directory.glob(_WRITTEN), key=lambda file: file.stat().st_size)
    if not files:
        raise UserError(
            f"--topology: this libtpu does not write down what it compiles for {chip.name}, which every figure is read"
            " from; use the version in requirements.lock"
        )
    return files[-1].read_text()
