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
    from t5x_like.frontends.gin.load import GinRun
    from t5x_like.parallel.topologies import Topology

_EPILOG = """examples:
  python -m t5x_like.main --run_mode=train --gin_file=gin/models/quickstart.gin --gin.TRAIN_STEPS=200 \\
    --gin.MODEL_DIR='"runs/b"'
  python -m t5x_like.main --run_mode=eval --gin.CHECKPOINT_PATH='"runs/b"'
  python -m t5x_like.main --run_mode=infer --gin.CHECKPOINT_PATH='"runs/b"' --gin.PROMPTS='["Fellow citizens"]'

T5X's own files of runs and models work as they are: docs/from-t5x.md. t5x_like --help has the other spelling.
"""
_MODES = ("train", "eval", "infer", "precompile", "export")
# Flags that are on or off, as absl reads them: --dry_run, --nodry_run, --dry_run=false.
_SWITCHES = ("dry_run", "multiprocess_gpu", "alsologtostderr", "logtostderr", "json")
_TRUTH = {"true": True, "t": True, "1": True, "yes": True, "false": False, "f": False, "0": False, "no": False}
# absl's flags of logging. What there is to say goes to stderr in any case.
_LOGGING = ("v", "verbosity", "stderrthreshold", "log_dir", "showprefixforinfo", "undefok")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line; exit statuses are those of `t5x_like`."""
    startup.prepare()
    given = list(sys.argv[1:] if arguments is None else arguments)
    return guarded(lambda: _run(*_parser().parse_known_args(_absl(given))))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m t5x_like.main",
        description="Train, evaluate, generate or export as a T5X user would say it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--run_mode", choices=_MODES, default="train", help="default: train")
    parser.add_argument("--gin_file", action="append", default=[], metavar="FILE", help="may be repeated")
    parser.add_argument(
        "--gin_bindings", action="append", default=[], metavar="'NAME = VALUE'", help="after the files; may be repeated"
    )
    parser.add_argument(
        "--gin_search_paths", default="", metavar="DIR,DIR", help="where files and includes are looked for"
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="print the experiment, and what has become of each binding, and stop"
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
    parser.add_argument("--multiprocess_gpu", action="store_true", help="several processes find each other in any case")
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
    for name in ("alsologtostderr", "logtostderr"):
        parser.add_argument(f"--{name}", action="store_true", help=argparse.SUPPRESS)
    for name in _LOGGING:
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    add_job(parser)
    parser.add_argument(
        "--topology",
        default="",
        metavar="NAME",
        help="of --run_mode=precompile, such as v5e:16x16; the executable goes into MODEL_DIR, for --executable",
    )
    return parser


def _absl(arguments: Sequence[str]) -> list[str]:
    """The arguments with absl's spelling of switches as plain ones: `--dry_run=true` and `--nodry_run`."""
    found = []
    for argument in arguments:
        name, equals, value = argument.removeprefix("--").partition("=")
        if argument.startswith("--") and name in _SWITCHES and equals and value.lower() in _TRUTH:
            found += [f"--{name}"] if _TRUTH[value.lower()] else []
        elif not (argument.startswith("--no") and name.removeprefix("no") in _SWITCHES and not equals):
            found.append(argument)
    return found


def _run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    for argument in rest:
        if not argument.startswith("--gin.") or "=" not in argument:
            raise UserError(f"{argument!r} is not understood; a gin name is set with --gin.NAME=VALUE")
    for flag, needed in {"profile": "train", "executable": "train", "topology": "precompile"}.items():
        if getattr(options, flag) and options.run_mode != needed:
            raise UserError(f"--{flag} is of --run_mode={needed} and would have no effect; leave it out")
    from t5x_like.distributed import cluster
    from t5x_like.distributed import processes as distributed
    from t5x_like.frontends.gin.load import load
    from t5x_like.parallel import topologies

    precompile = options.run_mode == "precompile" and not options.dry_run
    if precompile and not options.topology:
        raise UserError("--topology is not given; --run_mode=precompile needs the name of a slice, such as v5e:16x16")
    topology = topologies.parse(options.topology) if precompile else None
    if topology:
        topologies.prepare(topology.chip.platform)
    search_paths = [path for path in options.gin_search_paths.split(",") if path]
    common.import_modules(options.module, search_paths)
    run = load(options.gin_file, [*options.gin_bindings, *rest], search_paths, options.run_mode, _directories(options))
    if options.dry_run:
        return _show(run, options)
    _import(run, search_paths)
    _require_vocabulary(run)
    if topology:
        return _precompile(run, topology, options)
    mode = {"train": _train, "eval": _evaluate, "infer": _infer, "export": _export}[options.run_mode]
    processes = cluster.find(options.coordinator_address, options.process_count, options.process_index)
    return distributed.run(processes, lambda: mode(run, options))


def _directories(options: argparse.Namespace) -> dict[str, object]:
    """T5X's flags for directories, as fields of SeqIO's tasks."""
    caches = [path for path in options.seqio_additional_cache_dirs.split(",") if path]
    named = {"data_dir": options.tfds_data_dir, "cache_dirs": caches}
    return {name: value for name, value in named.items() if value}


def _import(run: "GinRun", search_paths: Sequence[str]) -> None:
    """Imports the modules that gin names.

    Raises:
      UserError: for one that is not there or fails, with the line that names it.
    """
    for module, where in run.modules.items():
        try:
            common.import_modules([module], search_paths)
        except UserError as error:
            raise UserError(f"{where}: {str(error).removeprefix('--module: ')}") from error


def _show(run: "GinRun", options: argparse.Namespace) -> int:
    """Prints the experiment and the fate of every binding."""
    from t5x_like.sections import flatten

    experiment = run.experiment.to_dict()
    if options.json:
        fates = [{"binding": fate.label, "became": fate.text} for fate in run.fates]
        common.print_json({"experiment": experiment, "workdir": run.workdir, "bindings": fates})
        return 0
    for path, value in flatten(experiment).items():
        print(f"{path} = {value!r}")
    print()
    for fate in run.fates:
        print(f"{fate.label}: {fate.text}")
    return 0


def _require_vocabulary(run: "GinRun") -> None:
    """T5X's comparison of the model's vocabulary with the task's.

    Raises:
      UserError: when they are different SentencePiece files.
    """
    if run.vocabulary is None or (run.job and run.job.options.get("files")):
        return
    task = run.experiment.data.task
    if task.name == "seqio" and (found := task.unlike(*run.vocabulary)):
        raise UserError(f"VOCABULARY: the model's is {run.vocabulary[0]!r} and {found}; give the model the task's")


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
    if run.job is None:
        from t5x_like.commands.evaluate import run_evaluate

        return run_evaluate(_checkpoint(run), json_output=options.json)
    from t5x_like.distributed.processes import is_first
    from t5x_like.evaluation import checkpoint_list
    from t5x_like.telemetry.progress import summary_table

    job, found = run.job, []
    for path, step, metrics in checkpoint_list.evaluate(run.experiment, job.checkpoints, job.output, every=job.every):
        found.append({"checkpoint": path, "step": step, **metrics})
        if is_first() and not options.json:
            summary_table(f"{path} at step {step}", {name: f"{value:.4f}" for name, value in metrics.items()})
    if is_first() and options.json:
        common.print_json({"checkpoints": found, "output": job.output})
    return 0


def _infer(run: "GinRun", options: argparse.Namespace) -> int:
    if run.job is None:
        from t5x_like.commands.generate import run_generate

        return run_generate(_checkpoint(run), run.prompts or [""], json_output=options.json)
    from t5x_like.distributed.processes import is_first
    from t5x_like.evaluation import predictions
    from t5x_like.evaluation.given import GivenModel
    from t5x_like.evaluation.seqio_evaluator import Responder
    from t5x_like.inference.decoding import Decoding

    settings = dict(run.job.options)
    decoding, files = dict(settings.pop("decoding")), settings.pop("files")
    if files:
        predictions.register_files(**files)
    wanted = predictions.Predictions(all_answers=decoding.pop("all"), **settings)
    model = GivenModel(run.experiment)
    state, step = model.restore(run.job.checkpoints[0])
    responder = Responder(model.context, wanted.features.get("targets", 0), Decoding(**decoding))
    written = []
    for path, lines in predictions.write(wanted, responder, state, run.job.output):
        written.append({"file": path, "lines": lines})
        if is_first() and not options.json:
            print(f"{path}: {f'{lines} lines' if lines else 'was whole before'}")
    if is_first() and options.json:
        common.print_json({"checkpoint": run.job.checkpoints[0], "step": step, "files": written})
    return 0


def _export(run: "GinRun", options: argparse.Namespace) -> int:
    """`t5x_like export` to a Hugging Face folder."""
    from t5x_like.__main__ import main as command

    if run.job is None:
        raise UserError("--run_mode=export needs a run's file, such as --gin_file=t5x/configs/runs/export.gin")
    flags = [f"--checkpoint={run.job.checkpoints[0]}", "--to=hf", f"--output={run.job.output}"]
    return command(["export", *flags, *(["--json"] if options.json else [])])


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
