"""T5X's entry: `python -m t5x_like.main --run_mode=train --gin_file=… --gin.NAME=VALUE`."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from t5x_like.__main__ import guarded
from t5x_like.checks import whole
from t5x_like.commands import common
from t5x_like.commands.train import add_job
from t5x_like.distributed import startup
from t5x_like.errors import UserError

if TYPE_CHECKING:
    from t5x_like.frontends.gin import GinRun
    from t5x_like.parallel.topologies import Topology

_EPILOG = """examples:
  python -m t5x_like.main --run_mode=train --gin_file=gin/runs/pretrain.gin --gin.TRAIN_STEPS=200 \\
    --gin.MODEL_DIR='"runs/b"'
  python -m t5x_like.main --run_mode=eval --gin_file=gin/runs/eval.gin --gin.CHECKPOINT_PATH='"runs/b"'
  python -m t5x_like.main --run_mode=infer --gin_file=gin/runs/infer.gin --gin.CHECKPOINT_PATH='"runs/b"' \\
    --gin.PROMPTS='["Fellow citizens"]'

docs/configs.md lists the names that are understood; t5x_like --help has the other spelling.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line; exit statuses are those of `t5x_like`."""
    startup.prepare()
    parser = argparse.ArgumentParser(
        prog="python -m t5x_like.main",
        description="Train, evaluate or generate as a T5X user would say it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    modes = ("train", "eval", "infer", "precompile")
    parser.add_argument("--run_mode", choices=modes, default="train", help="default: train")
    parser.add_argument("--gin_file", action="append", default=[], metavar="FILE", help="may be repeated")
    parser.add_argument(
        "--gin_bindings", action="append", default=[], metavar="'NAME = VALUE'", help="after the files; may be repeated"
    )
    parser.add_argument(
        "--gin_search_paths", default="", metavar="DIR,DIR", help="where files and includes are looked for"
    )
    parser.add_argument(
        "--module", action="append", default=[], metavar="PATH", help="a Python file or module to import first"
    )
    parser.add_argument("--tfds_data_dir", default="", metavar="DIR", help="where TFDS keeps its datasets")
    parser.add_argument(
        "--seqio_additional_cache_dirs", default="", metavar="DIR,DIR", help="where SeqIO's offline caches are"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout and nothing else there")
    # T5X's names for what `t5x_like` calls --coordinator, --processes and --process.
    parser.add_argument("--coordinator_address", metavar="HOST:PORT", help="of process 0, where there are several")
    parser.add_argument(
        "--process_count",
        type=whole("--process_count", 1, common.MOST_PROCESSES),
        metavar="N",
        help="how many processes there are",
    )
    parser.add_argument(
        "--process_index",
        type=whole("--process_index", 0, common.MOST_PROCESSES - 1),
        metavar="I",
        help="which one this is, from 0",
    )
    add_job(parser)
    parser.add_argument(
        "--topology",
        default="",
        metavar="NAME",
        help="of --run_mode=precompile, such as v5e:16x16; the executable goes into MODEL_DIR, for --executable",
    )
    return guarded(lambda: _run(*parser.parse_known_args(arguments)))


def _run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    for argument in rest:
        if not argument.startswith("--gin.") or "=" not in argument:
            raise UserError(f"{argument!r} is not understood; a gin name is set with --gin.NAME=VALUE")
    for flag, needed in {"profile": "train", "executable": "train", "topology": "precompile"}.items():
        if getattr(options, flag) and options.run_mode != needed:
            raise UserError(f"--{flag} is of --run_mode={needed} and would have no effect; leave it out")
    from t5x_like.distributed import cluster
    from t5x_like.distributed import processes as distributed
    from t5x_like.frontends import gin
    from t5x_like.parallel import topologies

    if options.run_mode == "precompile" and not options.topology:
        raise UserError("--topology is not given; --run_mode=precompile needs the name of a slice, such as v5e:16x16")
    topology = topologies.parse(options.topology) if options.run_mode == "precompile" else None
    if topology:
        topologies.prepare(topology.chip.platform)
    search_paths = [path for path in options.gin_search_paths.split(",") if path]
    common.import_modules(options.module, search_paths)
    run = gin.load(options.gin_file, [*options.gin_bindings, *_directories(options), *rest], search_paths)
    common.import_modules(run.modules, search_paths)
    if topology:
        return _precompile(run, topology, options)
    mode = {"train": _train, "eval": _evaluate, "infer": _infer}[options.run_mode]
    processes = cluster.find(options.coordinator_address, options.process_count, options.process_index)
    return distributed.run(processes, lambda: mode(run, options))


def _directories(options: argparse.Namespace) -> list[str]:
    """T5X's flags for directories, as the fields of the task that they are here."""
    caches = tuple(path for path in options.seqio_additional_cache_dirs.split(",") if path)
    named = {"data_dir": options.tfds_data_dir, "cache_dirs": caches}
    return [f"data.task.{field} = {value!r}" for field, value in named.items() if value]


def _train(run: "GinRun", options: argparse.Namespace) -> int:
    from t5x_like.commands.train import run_experiment

    _require_workdir(run)
    command = f"python -m t5x_like.main {shlex.join(sys.argv[1:])}"
    return run_experiment(
        run.experiment,
        run.workdir,
        json_output=options.json,
        modules=[*options.module, *run.modules],
        profile=options.profile,
        executable=options.executable,
        command=command,
    )


def _precompile(run: "GinRun", topology: "Topology", options: argparse.Namespace) -> int:
    from t5x_like.commands.preflight import run_preflight

    _require_workdir(run)
    return run_preflight(
        run.experiment,
        topology,
        argparse.Namespace(save=run.workdir, page="", golden="", record="", prices="", json=options.json),
    )


def _evaluate(run: "GinRun", options: argparse.Namespace) -> int:
    from t5x_like.commands.evaluate import run_evaluate

    return run_evaluate(_checkpoint(run), json_output=options.json)


def _infer(run: "GinRun", options: argparse.Namespace) -> int:
    from t5x_like.commands.generate import run_generate

    return run_generate(_checkpoint(run), run.prompts or [""], json_output=options.json)


def _require_workdir(run: "GinRun") -> None:
    if not run.workdir:
        raise UserError("MODEL_DIR must be given; set it with --gin.MODEL_DIR='\"runs/NAME\"'")


def _checkpoint(run: "GinRun") -> str:
    """The checkpoint to read, whose own experiment is the one that counts.

    Raises:
      UserError: when there is none, or when fields are set that would have no effect.
    """
    if run.origins:
        path, where = next(iter(run.origins.items()))
        raise UserError(
            f"{where}: {path} would have no effect, because a checkpoint is read with the experiment stored beside it;"
            " leave it out"
        )
    checkpoint = run.checkpoint or run.workdir
    if not checkpoint:
        raise UserError("CHECKPOINT_PATH must be given; set it with --gin.CHECKPOINT_PATH='\"runs/NAME\"'")
    return checkpoint


if __name__ == "__main__":
    sys.exit(main())
