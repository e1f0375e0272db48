"""`t5x_like data inspect`: a look at the batches before training."""

import argparse
from collections.abc import Sequence
from typing import Any

from t5x_like.checks import whole
from t5x_like.commands import common
from t5x_like.commands.data import corpus

_COLORS = ("cyan", "yellow", "green", "magenta")  # of the examples in a row, in turn
_BAR = 28  # characters of the longest bar


def add_parser(actions: Any) -> None:
    """Describes the command's flags."""
    parser = actions.add_parser(
        "inspect",
        help="show what the model will see",
        description="Show the first rows of an experiment's batches as text, with the borders of examples and what the"
        " loss counts, and how long documents are, how full rows are, and how often what is read. Nothing is trained.",
        epilog="example: t5x_like data inspect --config=configs/quickstart.py --examples=2",
        allow_abbrev=False,
    )
    common.add_config(parser)
    parser.add_argument(
        "--examples", type=whole("--examples", 0), default=3, metavar="N", help="rows to show as text (default 3)"
    )
    parser.add_argument(
        "--rows", type=whole("--rows", 1), default=256, metavar="N", help="rows to measure, at least (default 256)"
    )
    common.add_modules(parser)
    common.add_json(parser)


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the command."""
    import dataclasses

    from t5x_like.data.id_bounds import bounded
    from t5x_like.data.inspection import inspect
    from t5x_like.data.records.inspection import look_at_records
    from t5x_like.errors import ExperimentError
    from t5x_like.frontends import configdict

    experiment = configdict.load(options.config, rest)
    data = experiment.data
    opened = data.task.stream(data.split) if data.streaming else data.task.open(data.split)
    opened = bounded(opened, experiment.model.vocab_size, data.task)
    rows = max(options.rows, options.examples)
    records = () if data.streaming else look_at_records(opened, rows, experiment.seed)
    found, problem = None, None
    try:
        found = inspect(experiment, opened, rows=rows, shown=options.examples)
    except ExperimentError as error:
        if not records:
            raise
        problem = error
    if options.json:
        common.print_json(
            {"records": _plain(records), "problem": str(problem) if problem else None}
            | (_plain(dataclasses.asdict(found)) if found else {})
        )
    else:
        from rich.console import Console

        console = Console(soft_wrap=False)
        for each in records:
            _print_records(each, experiment, console)
        if found:
            show(found, experiment, console)
        if problem:
            console.print(f"No batches are shown: {problem}", style="yellow", markup=False)
    return 0


def show(found: Any, experiment: Any, console: Any) -> None:
    """Prints an `Inspection` for a person."""
    from rich.panel import Panel
    from rich.text import Text

    for number, features in enumerate(found.rows):
        for name, runs in features.items():
            title = Text(f" row {number}, {name} ", style="bold")
            console.print(Panel(_row(runs), title=title, title_align="left", border_style="dim"))
    if found.rows:
        console.print(_legend(found))
        console.print()
    if found.lengths:
        _print_lengths(found, console)
    if len(found.parts) > 1:
        _print_parts(found, console)
    _print_cleaning(found, console)
    _print_totals(found, experiment, console)


def _row(runs: Sequence[Any]) -> Any:
    """The text of one feature: examples in colours with a bar between them, what counts in brackets and underlined."""
    from rich.text import Text

    text, before = Text(overflow="fold"), None
    mixed = len({run.weighted for run in runs}) > 1
    for run in runs:
        if before is not None and run.segment != before:
            text.append("┃", style="bold red")
        before = run.segment
        color = _COLORS[(run.segment - 1) % len(_COLORS)]
        if mixed and run.weighted:
            text.append(f"⟦{run.text}⟧", style=f"bold underline {color}")
        else:
            text.append(run.text, style=color)
        if run.ends:
            text.append("⏎", style="bold red")
    return text


def _legend(found: Any) -> Any:
    from rich.text import Text

    text = Text()
    text.append("┃", style="bold red")
    text.append(" another example begins   ", style="dim")
    text.append("⏎", style="bold red")
    text.append(" a document ends", style="dim")
    if found.weighted is not None:
        text.append("   ")
        text.append("⟦…⟧", style="bold underline")
        text.append(" what the loss counts", style="dim")
    return text


def _print_lengths(found: Any, console: Any) -> None:
    """A bar a bin, by the tokens in it."""
    from rich.table import Table
    from rich.text import Text

    of = "all documents" if found.sampled is None else f"the first {found.sampled:,} documents"
    table = Table(title=f"Lengths of {of}, in tokens", title_justify="left", title_style="bold", box=None)
    table.add_column("tokens", justify="right")
    table.add_column("documents", justify="right")
    table.add_column("share", justify="right")
    table.add_column("", no_wrap=True)
    total = sum(each.tokens for each in found.lengths) or 1
    most = max((each.tokens for each in found.lengths), default=1) or 1
    for each in found.lengths:
        span = f"{each.low:,}–{each.high:,}" if each.low < each.high else f"{each.low:,}"
        bar = Text("█" * round(_BAR * each.tokens / most), style="cyan")
        table.add_row(span, f"{each.documents:,}", f"{each.tokens / total:.1%}", bar)
    console.print(table)
    console.print()


def _print_records(found: Any, experiment: Any, console: Any) -> None:
    """The arrays, classes and broken records of a component whose records are decoded."""
    from rich.table import Table

    from t5x_like.data.records.inspection import spelled

    of = f" of {found.component}" if found.component else ""
    title = f"Records{of} in {experiment.data.split!r}: {found.records:,}, of which {found.looked_at:,} were decoded"
    table = Table(title=title, title_justify="left", title_style="bold", box=None)
    for name in ("array", "shape", "type"):
        table.add_column(name)
    for name in ("least", "mean", "most"):
        table.add_column(name, justify="right")
    for array in found.arrays:
        numbers = (f"{value:.4g}" for value in (array.low, array.mean, array.high))
        table.add_row(array.name, spelled(array.shapes), array.dtype, *numbers)
    console.print(table)
    if found.classes:
        shares = ", ".join(f"{name} {count / sum(found.classes.values()):.1%}" for name, count in found.classes.items())
        console.print(f"Classes: {shares}", markup=False)
    if found.broken_count:
        console.print(f"{found.broken_count:,} cannot be decoded:", style="red")
        for sentence in found.broken:
            console.print(f"  {sentence}", markup=False, soft_wrap=True)  # a path stays in one piece
    console.print()


def _print_parts(found: Any, console: Any) -> None:
    from rich.table import Table

    table = Table(title="Mixture", title_justify="left", title_style="bold", box=None)
    table.add_column("component")
    for name in ("documents", "tokens"):
        table.add_column(name, justify="right")
    for step in found.steps or (0,):
        table.add_column(f"share from step {step:,}" if len(found.steps) > 1 else "share of tokens", justify="right")
    table.add_column("epochs in the run", justify="right")
    for part in found.parts:
        unknown = "streamed" if part.documents is None else "–"
        sizes = [f"{size:,}" if size is not None else unknown for size in (part.documents, part.tokens)]
        epochs = f"{part.epochs:.3g}" if part.epochs is not None else ""
        table.add_row(part.name, *sizes, *(f"{share:.2%}" for share in part.shares), epochs)
    console.print(table)
    console.print()


def _print_cleaning(found: Any, console: Any) -> None:
    """Prints the counts of cleaning, for each component that is cleaned on the way."""
    of = "all documents" if found.sampled is None else "the first documents"
    for name, counts in found.cleaned.items():
        console.print(f"Cleaning of {of}" + (f" of {name}" if name else ""), style="bold")
        for line in corpus.lines_of_counts(counts):
            console.print(line, markup=False, highlight=False)
        console.print()


def _print_totals(found: Any, experiment: Any, console: Any) -> None:
    from t5x_like.telemetry.progress import summary_table

    data = experiment.data
    rows = {
        "fill": f"{found.fill:.2%} of places hold a token, in the first {found.looked_at:,} rows",
        "dropped": f"{found.dropped:.2%} of tokens are in no example",
        "examples a row": f"{found.examples_a_row:.3g}",
        "tokens a run": f"{found.tokens_a_run:,}  ({experiment.steps:,} steps × {data.batch_size:,} rows ×"
        f" {found.tokens_a_run // (experiment.steps * data.batch_size):,} tokens)",
    }
    if found.weighted is not None:
        rows["counted by the loss"] = f"{found.weighted:.2%} of tokens"
    if found.tokens_an_epoch is not None:
        rows["tokens an epoch"] = f"{found.tokens_an_epoch:,}"
        if len(found.parts) == 1:
            rows["epochs a run"] = f"{found.tokens_a_run / found.tokens_an_epoch:.3g}"
    summary_table(f"{experiment.name}: what the model sees of {data.split!r}", rows, console=console)


def _plain(value: Any) -> Any:
    """Named tuples as objects, for JSON."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
