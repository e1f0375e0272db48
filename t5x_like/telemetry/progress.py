"""Progress of a run and its closing summary in the terminal. Progress goes to stderr; stdout is for results."""

import time
from collections.abc import Callable, Mapping

from rich import progress as bars
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

# Without a terminal (a log file, a job's output) there is one plain line at most this often.
_PLAIN_SECONDS = 10.0


class Progress:
    """A bar with the share done, the time left and the latest numbers; plain lines where there is no terminal.

    Args:
      total: steps of the whole run.
      start: steps done before this process began.
      console: where to print; stderr by default.
      clock: seconds from any fixed moment.
      unit: what a step is, for the lines.
    """

    def __init__(
        self,
        total: int,
        start: int = 0,
        *,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
        unit: str = "step",
    ):
        self._console = console or Console(stderr=True)
        self._total = total
        self._unit = unit
        self._start = start
        self._clock = clock
        self._began = clock()
        self._printed: float | None = None
        self._printed_step: int | None = None
        self._numbers: dict[str, float] = {}
        self._bar = self._make_bar() if self._console.is_terminal else None
        if self._bar:
            self._task = self._bar.add_task("", total=total, completed=start, numbers="")
            self._bar.start()

    def update(self, step: int, numbers: Mapping[str, float] | None = None) -> None:
        """Moves to `step` and shows numbers by name; a number stays until it is given anew."""
        self._numbers |= numbers or {}
        shown = "  ".join(f"{name} {format_number(value)}" for name, value in self._numbers.items())
        if self._bar:
            self._bar.update(self._task, completed=step, numbers=shown)
            return
        now = self._clock()
        ended = step == self._total and step != self._printed_step
        if self._printed is None or now - self._printed >= _PLAIN_SECONDS or ended:
            self._printed, self._printed_step = now, step
            share = 100 * step // max(self._total, 1)
            self.message(
                "  ".join(filter(None, (f"{self._unit} {step}/{self._total} ({share}%)", shown, self._left(step))))
            )

    def message(self, text: str) -> None:
        """Prints a line of its own, above the bar where there is one."""
        self._console.print(Text(text), soft_wrap=True)

    def close(self) -> None:
        """Leaves the bar as it is and gives the terminal back; safe to call twice."""
        if self._bar:
            self._bar.stop()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make_bar(self) -> bars.Progress:
        unit = [] if self._unit == "step" else [bars.TextColumn(self._unit, markup=False)]
        return bars.Progress(
            *unit,
            bars.BarColumn(bar_width=20),
            bars.TaskProgressColumn(),
            bars.MofNCompleteColumn(),
            bars.TextColumn("{task.fields[numbers]}", markup=False),
            bars.TimeRemainingColumn(compact=True),
            console=self._console,
            refresh_per_second=4,
        )

    def _left(self, step: int) -> str:
        """The time left at the speed so far, as text; empty while there is no telling, and at the end."""
        done = step - self._start
        if done <= 0 or step >= self._total:
            return ""
        return f"{format_seconds((self._clock() - self._began) / done * (self._total - step))} left"


def summary_table(title: str, rows: Mapping[str, str], *, console: Console | None = None) -> None:
    """Prints the block that ends a run: framed on a terminal, one `name  value` a line in a pipe.

    Args:
      title: its heading.
      rows: values by what they are.
      console: where to print; stdout by default.
    """
    console = console or Console()
    if not console.is_terminal:
        width = max(map(len, rows), default=0)
        lines = [title, *(f"  {name:{width}}  {value}" for name, value in rows.items())]
        console.print(Text("\n".join(lines)), soft_wrap=True)
        return
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(Text(name), Text(value))
    console.print(Panel(table, title=Text(title, style="bold"), title_align="left", expand=False, padding=(1, 2)))


def format_number(value: float) -> str:
    """A number as a person reads it: `3.142`, `12,346`, `1.5e-05`."""
    magnitude = abs(value)
    if magnitude >= 1e15:
        return f"{value:.3g}"
    if magnitude >= 1000 or float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:.4g}"


def format_seconds(seconds: float) -> str:
    """A time as a person reads it: `42 s`, `3 min 20 s`, `2 h 05 min`, `3 d 04 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600:02d} h"
