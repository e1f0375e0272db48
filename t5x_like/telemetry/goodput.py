"""The goodput of a run: where its wall time went, over all its processes and restarts, in `goodput.json`.

The accounts of this process (`distributed/accounts.py`) are added to those of the ones before. What lies between two
processes is `lost` (work after the last commit, which is done again) and `down` (nobody ran). All together is the time
since the run first began.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from t5x_like.io import files
from t5x_like.telemetry.writer import METRICS_FILE

GOODPUT_FILE = "goodput.json"
USEFUL = "step"
LOST, DOWN = "lost", "down"


class Goodput:
    """The ledger of one run, kept by its first process."""

    def __init__(
        self,
        workdir: epath.Path,
        seconds: Callable[[], Mapping[str, float]],
        *,
        fresh: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Reads what earlier processes have written.

        Args:
          workdir: of the run.
          seconds: the accounts of this process.
          fresh: whether the run begins anew, so that what is there belongs to another.
          now: the wall clock.
        """
        self._file, self._seconds, self._now = workdir / GOODPUT_FILE, seconds, now
        began = now() - sum(seconds().values())
        before = None if fresh else files.read_json(self._file, dict)
        self._before: dict[str, float] = dict(before["seconds"]) if before and _is_whole(before) else {}
        if before and self._before:
            ended = min(max(_last_sign(workdir), before["written"]), began)
            self._add(LOST, ended - before["written"])
            self._add(DOWN, began - ended)

    def totals(self) -> dict[str, float]:
        """Seconds by account, of all processes so far."""
        found = dict(self._before)
        for account, seconds in self._seconds().items():
            found[account] = found.get(account, 0.0) + seconds
        return found

    def write(self) -> None:
        """Writes the ledger; with a commit, since what comes after one may be lost.

        Raises:
          UserError: when it cannot be written.
        """
        totals = self.totals()
        values = {"seconds": totals, "effective_share": effective_share(totals), "written": self._now()}
        files.write_json(self._file, values)

    def _add(self, account: str, seconds: float) -> None:
        """Adds to what was before; a clock that was set back adds nothing."""
        self._before[account] = self._before.get(account, 0.0) + max(seconds, 0.0)


def effective_share(seconds: Mapping[str, float]) -> float:
    """The share of all time that went into steps that count, from 0 to 1."""
    total = sum(seconds.values())
    return seconds.get(USEFUL, 0.0) / total if total else 0.0


def read(workdir: epath.Path) -> dict[str, float]:
    """The ledger of a run: seconds by account; empty where there is none."""
    values = files.read_json(workdir / GOODPUT_FILE, dict)
    return dict(values["seconds"]) if values and _is_whole(values) else {}


def sentence(seconds: Mapping[str, float]) -> str:
    """The ledger for a person: the effective share, and the largest of the rest."""
    total = sum(seconds.values()) or 1.0
    rest = sorted(((value, name) for name, value in seconds.items() if name != USEFUL), reverse=True)
    shown = ", ".join(f"{name.replace('_', ' ')} {value / total:.1%}" for value, name in rest if value / total >= 0.001)
    return f"{effective_share(seconds):.1%} of the time in steps ({shown})"


def _is_whole(values: Any) -> bool:
    if not isinstance(values, dict) or not isinstance(values.get("written"), float):
        return False
    seconds = values.get("seconds")
    return isinstance(seconds, dict) and all(isinstance(value, float | int) for value in seconds.values())


def _last_sign(workdir: epath.Path) -> float:
    """When the earlier processes last wrote metrics, by the wall clock; 0 where that is not known."""
    try:
        return files.modified_at(workdir / METRICS_FILE)
    except OSError:
        return 0.0
