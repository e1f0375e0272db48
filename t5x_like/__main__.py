"""`t5x_like COMMAND …`: one thin module a command, which imports what is heavy when it runs."""

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence

from t5x_like import __version__, exits
from t5x_like.distributed import startup
from t5x_like.errors import StuckError, explain

COMMANDS = (
    "train",
    "evaluate",
    "generate",
    "infer",
    "chat",
    "serve",
    "adapters",
    "report",
    "config",
    "models",
    "data",
    "preflight",
    "import",
    "export",
    "submit",
    "supervise",
    "jobs",
    "checkpoint",
    "sweep",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line; the exit status is one of `exits.TABLE`."""
    startup.prepare()
    parser = argparse.ArgumentParser(
        prog="t5x_like", description="Pre-train models in JAX and trust the result.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"t5x_like {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", dest="command", required=True)
    modules = {name: importlib.import_module(f"t5x_like.commands.{name}") for name in COMMANDS}
    for module in modules.values():
        module.add_parser(subparsers)

    def run() -> int:
        options, rest = parser.parse_known_args(arguments)
        return modules[options.command].run(options, rest)

    return guarded(run)


def guarded(run: Callable[[], int]) -> int:
    """Runs a command; what the user can mend becomes one sentence on stderr and exit status 2."""
    try:
        return run()
    except BrokenPipeError:  # whoever read our output has seen enough
        sys.stderr.close()
    except Exception as error:
        sentence, status = explain(error), exits.of_error(error).status
        if sentence is None and status == exits.FAULT.status:
            raise
        if sentence is None:
            traceback.print_exception(error)
        else:
            print(f"error: {sentence}", file=sys.stderr, flush=True)
        if isinstance(error, StuckError):
            sys.stdout.flush()
            os._exit(status)  # an orderly end would wait for what is stuck
        return status
    return exits.MISTAKE.status


if __name__ == "__main__":
    sys.exit(main())
