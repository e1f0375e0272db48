"""Profiler traces of chosen steps, for TensorBoard, XProf or Perfetto."""

import contextlib
import dataclasses
import pathlib
import re
import tempfile
from typing import Any

import jax
from etils import epath

from t5x_like.errors import UserError


@dataclasses.dataclass(frozen=True)
class Steps:
    """The range of steps that is traced.

    Attributes:
      first: the first of them.
      last: the last of them.
    """

    first: int
    last: int


def parse(text: str) -> Steps | None:
    """The steps that `--profile` names, `FIRST:END` without the end, or one alone; None for an empty text.

    Raises:
      UserError: for what is no range of steps.
    """
    if not text:
        return None
    found = re.fullmatch(r"(\d+)(?::(\d+))?", text)
    steps = found and Steps(int(found[1]), int(found[2]) - 1 if found[2] else int(found[1]))
    if not steps or not 1 <= steps.first <= steps.last:
        raise UserError(f"--profile: {text!r} is no range of steps; 10:13 are the steps 10, 11 and 12, and 10 is one")
    return steps


class Profile:
    """Traces the first process of a run while the chosen steps are done.

    Attributes:
      path: the directory with the trace, once there is one.
    """

    def __init__(self, steps: Steps | None, directory: epath.Path) -> None:
        """Traces nothing yet.

        Args:
          steps: which; None for none.
          directory: where the trace is written.
        """
        self.path: epath.Path | None = None
        self._steps = steps if jax.process_index() == 0 else None
        self._directory = directory
        self._local: tempfile.TemporaryDirectory[str] | None = None

    def around(self, step: int) -> Any:
        """The context in which to run a step: it marks the step in the trace."""
        if self._steps is None or not self._steps.first <= step <= self._steps.last:
            return contextlib.nullcontext()
        if self._local is None:
            self._local = tempfile.TemporaryDirectory(prefix="t5x_like-profile-")
            jax.profiler.start_trace(self._local.name)
        return jax.profiler.StepTraceAnnotation("train", step_num=step)

    def end(self, step: int, results: Any) -> bool:
        """Ends the trace after its last step; whether it did.

        Args:
          step: that was handed to the devices.
          results: of it, which are waited for.
        """
        if self._local is None or self._steps is None or step < self._steps.last:
            return False
        jax.block_until_ready(results)
        self.close()
        return True

    def close(self) -> None:
        """Ends the trace where it is, and puts it into its directory; does nothing where there is none."""
        if self._local is None:
            return
        local, self._local, self._steps = self._local, None, None
        with local:
            jax.profiler.stop_trace()
            # The profiler writes on local disks alone.
            for file in pathlib.Path(local.name).rglob("*"):
                if file.is_file():
                    target = self._directory / file.relative_to(local.name).as_posix()
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(file.read_bytes())
        self.path = self._directory
