"""Flags and JSON output that several commands share."""

import argparse
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from t5x_like.checks import real, whole
from t5x_like.commands.modules import import_modules as import_modules
from t5x_like.distributed.waiting import PATIENCE
from t5x_like.errors import UserError

if TYPE_CHECKING:
    from t5x_like.inference.sampling import Sampling

# Of one run; far above any machine there is, and few enough to be listed.
MOST_PROCESSES = 1 << 20


def add_json(parser: argparse.ArgumentParser) -> None:
    """Adds `--json`."""
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout and nothing else there")


def add_modules(parser: argparse.ArgumentParser) -> None:
    """Adds `--module`."""
    parser.add_argument(
        "--module",
        action="append",
        default=[],
        metavar="PATH",
        help="import this Python file or module first, for tasks and models of your own; may be repeated",
    )


def add_quantize(parser: argparse.ArgumentParser) -> None:
    """Adds `--quantize`."""
    parser.add_argument(
        "--quantize",
        choices=("int8", "int4", "nf4"),
        default="",
        help="keep the kernels of linear layers in eight or four bits a number (default: as in the checkpoint)",
    )


def add_sampling(parser: argparse.ArgumentParser, *, tokens: int, temperature: float, top_p: float) -> None:
    """Adds the flags of sampling, with a command's defaults; `sampling` reads them."""
    parser.add_argument(
        "--tokens",
        type=whole("--tokens", 1),
        default=tokens,
        metavar="N",
        help=f"new tokens at most ({tokens})",
    )
    parser.add_argument(
        "--temperature",
        type=real("--temperature", 0),
        default=temperature,
        metavar="T",
        help=f"divides the logits; 0 is greedy (default {temperature:g})",
    )
    parser.add_argument(
        "--top-k", type=whole("--top-k", 0), default=0, metavar="K", help="keep the K likeliest tokens; 0 keeps all"
    )
    parser.add_argument(
        "--top-p",
        type=real("--top-p", 0, 1),
        default=top_p,
        metavar="P",
        help=f"keep the likeliest P of probability (default {top_p:g})",
    )
    parser.add_argument(
        "--min-p",
        type=real("--min-p", 0, 1),
        default=0.0,
        metavar="P",
        help="keep tokens at least P times as likely as the likeliest; 0 keeps all",
    )
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="a text to end at; may be repeated")
    parser.add_argument(
        "--seed", type=whole("--seed"), default=0, metavar="N", help="of the random choices (default 0)"
    )


def sampling(options: argparse.Namespace) -> "Sampling":
    """The sampling that the flags of `add_sampling` ask for."""
    from t5x_like.inference.sampling import Sampling

    return Sampling(options.temperature, options.top_k, options.top_p, options.min_p)


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Adds `--coordinator`, `--processes`, `--process` and `--wait`."""
    group = parser.add_argument_group(
        "several processes",
        "One process a host, or a device, all started with the same command. SLURM, Open MPI, GKE and Cloud TPU say by"
        " themselves what these flags say, and so do JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.",
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="a free port of the host of process 0")
    group.add_argument(
        "--processes", type=whole("--processes", 1, MOST_PROCESSES), metavar="N", help="how many there are"
    )
    group.add_argument(
        "--process", type=whole("--process", 0, MOST_PROCESSES - 1), metavar="I", help="which one this is, from 0"
    )
    group.add_argument(
        "--wait", type=real("--wait", 0), metavar="SECONDS", help="for the others (default 20; 300 on pods)"
    )
    add_patience(parser)


def add_patience(parser: argparse.ArgumentParser) -> None:
    """Adds `--patience`."""
    parser.add_argument(
        "--patience",
        type=real("--patience", 1),
        default=PATIENCE,
        metavar="SECONDS",
        help="for which a process may be silent, or a step take at the least, before the run ends to be started again"
        f" (default {PATIENCE:g})",
    )


def run_processes(options: argparse.Namespace, command: Callable[[], int]) -> int:
    """Runs a command, in several processes if the flags or a launcher say so.

    Args:
      options: with the flags of `add_processes`.
      command: what to do; gives the exit status.
    """
    from t5x_like.distributed import cluster
    from t5x_like.distributed import processes as distributed

    found = cluster.find(options.coordinator, options.processes, options.process, wait=options.wait)
    return distributed.run(found, command, options.patience)


def add_config(parser: argparse.ArgumentParser) -> None:
    """Adds `--config`."""
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE[:ARGUMENT]",
        help="an experiment, such as configs/quickstart.py; --config.FIELD=VALUE overrides any of its fields",
    )


def require_given(flag: str, path: str) -> None:
    """Raises UserError for a path that is empty, as an unset variable of a shell makes it: it would be this directory.

    Args:
      flag: what it was given to.
      path: what was given.
    """
    if not path.strip():
        raise UserError(f"{flag} is empty; give a directory")


def refuse(rest: Sequence[str], command: str) -> None:
    """Raises UserError for arguments that no parser has taken.

    Args:
      rest: what was left over.
      command: the command they were given to.
    """
    if rest:
        raise UserError(f"{command} does not know {rest[0]!r}; see t5x_like {command} --help")


def print_json(value: Any) -> None:
    """Prints one JSON object on stdout; not-a-number becomes null."""
    print(json.dumps(_finite(value), indent=2))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value
