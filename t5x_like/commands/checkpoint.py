"""`t5x_like checkpoint`: lists, verifies, compares, prunes and converts checkpoints."""

import argparse
from collections.abc import Sequence
from typing import Any

from t5x_like.checks import whole
from t5x_like.commands import common
from t5x_like.errors import UserError


def add_parser(subparsers: Any) -> None:
    """Describes the command's flags."""
    parser = subparsers.add_parser(
        "checkpoint",
        help="list, verify, compare, prune and convert checkpoints",
        description="Look after the checkpoints of a work directory, without the model that they are of.",
        allow_abbrev=False,
    )
    actions = parser.add_subparsers(metavar="ACTION", dest="action", required=True)
    _add(actions, "ls", "every step: its size, whether it is complete, what was measured", "path")
    _add(actions, "verify", "read every array and compare it with its digest", "path")
    _add(actions, "diff", "what differs between two checkpoints", "before", "after")
    prune = _add(actions, "prune", "remove steps, and what was left half-written; nobody may be training there", "path")
    prune.add_argument("--keep", type=whole("--keep", 1), metavar="N", help="keep the latest N and remove the others")
    prune.add_argument(
        "--after", type=whole("--after", 0), metavar="STEP", help="remove what is later, to go on from STEP"
    )
    convert = _add(actions, "convert", "copy a checkpoint into another work directory, in the newest format", "path")
    convert.add_argument("output", metavar="WORKDIR", help="where it is written, with its step's number")


def _add(actions: Any, name: str, help_: str, *paths: str) -> Any:
    action = actions.add_parser(name, help=help_, description=help_.capitalize() + ".", allow_abbrev=False)
    for path in paths:
        action.add_argument(path, metavar=path.upper(), help="a work directory, or WORKDIR/checkpoints/STEP")
    common.add_json(action)
    return action


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the command."""
    common.refuse(rest, "checkpoint")
    actions = {"ls": _list, "verify": _verify, "diff": _diff, "prune": _prune, "convert": _convert}
    return actions[options.action](options)


def _list(options: argparse.Namespace) -> int:
    from t5x_like.checkpoint import inspection

    found = inspection.listing(_directory(options.path))
    if options.json:
        common.print_json([vars(each) for each in found])
        return 0
    for each in found:
        state = "half-written" if not each.complete else each.problem or "complete"
        metrics = ", ".join(f"{name} {value:.4f}" for name, value in each.metrics.items() if value is not None)
        print(f"{each.step:>10}  {each.size / 1e6:>10,.1f} MB  {state}  {metrics}".rstrip())
    return 0


def _verify(options: argparse.Namespace) -> int:
    from t5x_like.checkpoint import inspection
    from t5x_like.checkpoint.layout import Commit, find, scan

    commits = [find(options.path)]
    if commits[0].path != _absolute(options.path):  # a work directory: all that are in it
        directory = _directory(options.path)
        commits = [Commit(directory / str(step), step) for step in scan(directory)[0]]
    damaged, rows = [], []
    for commit in commits:
        count = size = 0
        problem = ""
        try:
            for done in inspection.verify(commit):
                count, size = done
        except UserError as error:
            problem = str(error)
            damaged.append(problem)
        rows.append({"step": commit.step, "leaves": count, "bytes": size, "problem": problem})
        if not options.json:
            print(problem or f"step {commit.step}: {count} arrays of {size / 1e6:,.1f} MB are what was written")
    if options.json:
        common.print_json(rows)
    if damaged:
        raise UserError(f"{len(damaged)} of {len(commits)} checkpoint(s) are damaged; the first: {damaged[0]}")
    return 0


def _diff(options: argparse.Namespace) -> int:
    from t5x_like.checkpoint import inspection
    from t5x_like.checkpoint.layout import find

    lines = inspection.differences(find(options.before), find(options.after))
    if options.json:
        common.print_json({"differences": lines})
    else:
        print("\n".join(lines) or "nothing differs")
    return 0


def _prune(options: argparse.Namespace) -> int:
    from t5x_like.checkpoint.layout import scan
    from t5x_like.checkpoint.store import remove
    from t5x_like.io.lease import Lease

    if (options.keep is None) == (options.after is None):
        raise UserError("prune needs one of --keep=N and --after=STEP")
    directory = _directory(options.path)
    lease = Lease(directory.parent, say=print)
    lease.acquire()
    try:
        committed, unfinished = scan(directory)
        if options.after is not None and committed and options.after < committed[0]:
            raise UserError(f"--after: the first checkpoint is of step {committed[0]}, so that nothing would be left")
        late = committed[: -options.keep] if options.keep else [step for step in committed if step > options.after]
        for step in [*unfinished, *late]:
            remove(directory / str(step))
    finally:
        lease.release()
    if options.json:
        common.print_json({"removed": [*unfinished, *late], "left": [step for step in committed if step not in late]})
    else:
        left = len(committed) - len(late)
        print(f"removed {len(late)} checkpoint(s) and {len(unfinished)} half-written; {left} stay")
    return 0


def _convert(options: argparse.Namespace) -> int:
    from t5x_like.checkpoint import inspection
    from t5x_like.checkpoint import workdir as files
    from t5x_like.checkpoint.layout import find
    from t5x_like.checkpoint.store import CheckpointStore
    from t5x_like.experiment import Checkpoint, Experiment

    commit = find(options.path)
    manifest, arrays = inspection.read_all(commit)
    experiment = Experiment.from_dict(manifest.meta["experiment"])
    target = _absolute(options.output)
    meta = {**manifest.meta, "experiment": experiment.to_dict()}
    with CheckpointStore(target / files.CHECKPOINTS, Checkpoint(keep=1 << 20), asynchronous=False) as store:
        store.save(manifest.step, arrays, meta, manifest.position)
    assets = commit.workdir / files.ASSETS
    there = {path.name: path.read_bytes() for path in assets.iterdir()} if assets.is_dir() else {}
    files.write_description(target, experiment, there)
    written = str(target / files.CHECKPOINTS / str(manifest.step))
    if options.json:
        common.print_json({"checkpoint": written})
    else:
        print(f"step {manifest.step} is in {written}, in the newest format and whole")
    return 0


def _absolute(path: str) -> Any:
    from t5x_like.checkpoint.layout import absolute

    return absolute(path)


def _directory(path: str) -> Any:
    """The directory of checkpoints that a user means.

    Raises:
      UserError: when there is none.
    """
    place = _absolute(path)
    for directory in (place / "checkpoints", place, place.parent):
        if directory.name == "checkpoints" and directory.is_dir():
            return directory
    raise UserError(f"{place} has no checkpoints; give a work directory")
