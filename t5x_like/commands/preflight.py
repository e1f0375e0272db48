"""`t5x_like preflight`: the train step compiled ahead of time for absent hardware: memory, time, cost."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from t5x_like.checks import whole
from t5x_like.commands import common
from t5x_like.errors import UserError


def add_parser(subparsers: Any) -> None:
    """Describes the command's flags."""
    parser = subparsers.add_parser(
        "preflight",
        help="compile the step for TPUs or GPUs that are not here, and say whether it fits and what it costs",
        description="Compile an experiment's real train step for a topology, without its hardware, and report memory,"
        " time, collectives and the run's cost. docs/preflight.md explains every figure and its error bars.",
        epilog="example: t5x_like preflight --config=configs/llama2_7b.py --topology=v5e:16x16",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", metavar="FILE[:ARGUMENT]", help="an experiment; --config.FIELD=VALUE overrides any of its fields"
    )
    parser.add_argument(
        "--topology", metavar="NAME", help="such as v5e:16x16, v5p:4x4x4, or of GPUs h200:8 and h200:2x8"
    )
    parser.add_argument(
        "--slices", type=whole("--slices", 1, 1024), default=1, metavar="N", help="slices of that shape; 1 by default"
    )
    parser.add_argument(
        "--search",
        nargs="?",
        type=whole("--search", 1),
        const=8,
        metavar="N",
        help="compile the N (8) most promising mesh shapes, remat policies and microbatches, and rank what fits",
    )
    parser.add_argument(
        "--compare", nargs=2, metavar=("A", "B"), help="print how two reports, saved with --json, differ"
    )
    parser.add_argument(
        "--save", metavar="DIR", help="keep the compiled executable in this directory, for train --executable=DIR"
    )
    parser.add_argument(
        "--golden", metavar="FILE", help="compare with the figures recorded in this file; exit 1 where one has moved"
    )
    parser.add_argument("--record", metavar="FILE", help="write the figures that --golden compares into this file")
    parser.add_argument("--page", metavar="FILE", help="write the report as a web page, too")
    parser.add_argument("--prices", default="", metavar="FILE", help="a table in place of the package's prices.json")
    common.add_modules(parser)
    common.add_json(parser)


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the command."""
    if options.compare:
        common.refuse(rest, "preflight --compare")
        return _compare(*options.compare, json_output=options.json)
    for flag in ("config", "topology"):
        if not getattr(options, flag):
            raise UserError(f"--{flag} is not given; see t5x_like preflight --help")
    from t5x_like.parallel import topologies

    topology = topologies.parse(options.topology, options.slices)
    topologies.prepare(topology.chip.platform)
    from t5x_like.frontends import configdict

    common.import_modules(options.module)
    experiment = configdict.load(options.config, rest)
    if options.search is not None:
        return _search(experiment, topology, options)
    return run_preflight(experiment, topology, options, rest)


def run_preflight(experiment: Any, topology: Any, options: argparse.Namespace, overrides: Sequence[str] = ()) -> int:
    """Compiles the step and prints the report.

    Args:
      experiment: whose step.
      topology: for which.
      options: `save`, a directory or None; `page`, `golden` and `record`, files or None; `prices`, a file or empty;
        `json`.
      overrides: of the experiment's config, as the command line has them.

    Returns:
      The exit status: 1 where a figure is not the one recorded, else 0.
    """
    from t5x_like.preflight import golden, page, prices, show

    prices.read(topology.chip.name, options.prices)
    figures = _isolated(topology)(lambda: _figures(experiment, topology, options))
    if options.page:
        figures["page"] = page.write(figures, options.page)
    if options.record:
        golden.record(figures, options.record, overrides)
    moved = golden.moved(figures, options.golden, overrides) if options.golden else {}
    if options.json:
        common.print_json({**figures, "moved": moved} if options.golden else figures)
        return 1 if moved else 0
    show.show(figures)
    if options.golden:
        show.moved(moved, options.golden)
    if options.save:
        print(f"the executable is {figures['executable']}; t5x_like train --executable={options.save} runs it")
    if options.page:
        print(f"the page is {figures['page']}")
    return 1 if moved else 0


def _figures(experiment: Any, topology: Any, options: argparse.Namespace) -> dict[str, Any]:
    """The report of the compiled step, which is saved where `--save` asks for it."""
    from etils import epath

    from t5x_like.preflight import build, report

    built = build.build(experiment, topology)
    figures = report.report(built, options.prices)
    if options.save:
        figures["executable"] = str(build.save(built, epath.Path(options.save).expanduser()))
    return figures


def _isolated(topology: Any) -> Callable[[Callable[[], Any]], Any]:
    """A function that runs its argument in a child process and turns an abort of the compiler into a UserError."""
    from t5x_like.parallel import topologies
    from t5x_like.preflight import child

    known = topologies.nearest(topology.chip, topology.chips // topology.slices)
    meant = "" if topology.name in topologies.slices_of(topology.chip) else f"; did you mean --topology={known}?"

    def run(work: Callable[[], Any]) -> Any:
        try:
            return child.run(work, f"--topology: the compilation for {topology}")
        except child.AbortedError as error:
            raise UserError(f"{error}{meant}") from error

    return run


def _search(experiment: Any, topology: Any, options: argparse.Namespace) -> int:
    from t5x_like.preflight import prices, search, show

    if options.page:
        raise UserError("--page: a search has no page; run preflight --page with the flags that it ranks first")
    prices.read(topology.chip.name, options.prices)
    reports = search.search(
        experiment,
        topology,
        options.search,
        lambda line: print(line, file=sys.stderr, flush=True),
        options.prices,
        _isolated(topology),
    )
    if options.json:
        common.print_json({"ranking": reports})
    else:
        show.ranking(reports)
    return 0


def _compare(first: str, second: str, *, json_output: bool) -> int:
    from t5x_like.preflight import show

    reports = [_read(first), _read(second)]
    if json_output:
        a, b = (show.numbers(report) for report in reports)
        common.print_json({name: [a[name], b[name]] for name in a if name in b and a[name] != b[name]})
    else:
        show.compare(reports[0], reports[1], (first, second))
    return 0


def _read(file: str) -> Any:
    try:
        report = json.loads(Path(file).read_text())
        if "per_chip" in report:
            return report
    except (OSError, ValueError):
        pass
    raise UserError(f"--compare: {file} is no report; write one with t5x_like preflight … --json > {file}")
