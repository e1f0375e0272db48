"""Preparing a corpus on a cluster, with Apache Beam: the bytes are those of `t5x_like data prepare` on one machine.

Beam and what this program trains with do not go into one environment (their protobufs differ), so this module imports
nothing but NumPy, SentencePiece, zstandard and etils, and what a format or a stage needs beside. Run it there as

    python -m t5x_like.data.prepare_beam --input=… --tokenizer=… --output=… --runner=DataflowRunner …

Files are read each by one worker, blocks are tokenised by any, and every group of shards is put together by one, in
whose memory it has to fit. What a runner repeats it writes again, to the same bytes; the manifest comes last.
"""

import argparse
import json
import pickle
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from etils import epath

from t5x_like import migrations
from t5x_like.data import prepare_steps as steps
from t5x_like.data import sources
from t5x_like.data.cleaning.base import Record
from t5x_like.data.prepare_groups import Grouping, GroupWriter, ShardGroup, finish
from t5x_like.data.prepare_steps import Plan, Position
from t5x_like.data.token_files import MANIFEST, SourceFile, load_arrays, save_arrays
from t5x_like.errors import UserError
from t5x_like.experiment import Data
from t5x_like.sections import section

_STATE = "state"

Verdicts = tuple[tuple[int, str], ...]
Keyed = tuple[tuple[int, int], bytes]  # where a block begins, and what is in it, pickled


def prepare(plan: Plan, output: str, options: Any) -> None:
    """Runs the pipelines: one for each stage that must see the whole corpus first, and the last.

    Args:
      plan: what to prepare.
      output: a directory that all workers see.
      options: Beam's `PipelineOptions`.

    Raises:
      UserError: when the output holds something already.
    """
    import apache_beam as beam

    directory = epath.Path(output)
    if (directory / MANIFEST).exists():
        raise UserError(f"--output: {output} holds a prepared corpus already; give another directory")
    pickled, files = plan.pickled(), range(len(plan.shards()))
    verdicts: Verdicts = ()
    for place in plan.cleaner.corpus_stages():
        keys = directory / _STATE / f"keys-{place}"
        keys.mkdir(parents=True, exist_ok=True)
        with beam.Pipeline(options=options) as pipeline:
            blocks = _blocks_of(pipeline, files, pickled, None)
            _ = blocks | "Keys" >> beam.Map(_write_keys, pickled, verdicts, place, str(keys))
        verdicts += ((place, _decide(plan, place, keys)),)
    directory.mkdir(parents=True, exist_ok=True)
    with beam.Pipeline(options=options) as pipeline:
        _build(pipeline, files, pickled, plan.splits, verdicts, output)
    if (directory / _STATE).exists():
        (directory / _STATE).rmtree()


def _build(
    pipeline: Any, files: Iterable[int], plan: bytes, splits: Sequence[str], verdicts: Verdicts, output: str
) -> None:
    """The last pipeline: blocks → tokens → groups of shards → manifest."""
    import apache_beam as beam
    from apache_beam.pvalue import AsSingleton

    encoded = (
        _blocks_of(pipeline, files, plan, splits)
        | "Encode" >> beam.Map(_encode, plan, verdicts)
        # Both what plans the groups and what writes them read this: it is made once.
        | "Keep" >> beam.Reshuffle()
    )
    groups = (
        encoded
        | "Sizes" >> beam.Map(_sizes)
        | "All sizes" >> beam.combiners.ToList()
        | "Plan groups" >> beam.Map(_plan_groups, plan)
    )
    written = (
        encoded
        | "Assign" >> beam.Map(_assign, AsSingleton(groups))
        | "Group" >> beam.GroupByKey()
        | "Write" >> beam.Map(_write_group, plan, output)
        | "All groups" >> beam.combiners.ToList()
    )
    digests = (
        pipeline
        | "Sources" >> beam.Create(files)
        | "Spread sources" >> beam.Reshuffle()
        | "Digest" >> beam.Map(_digest, plan)
        | "All sources" >> beam.combiners.ToList()
    )
    _ = written | "Finish" >> beam.Map(_finish, AsSingleton(digests), plan, output)


def _blocks_of(pipeline: Any, files: Iterable[int], plan: bytes, splits: Sequence[str] | None) -> Any:
    import apache_beam as beam

    return (
        pipeline
        | "Files" >> beam.Create(files)
        | "Spread files" >> beam.Reshuffle()
        | "Read" >> beam.FlatMap(_read, plan, splits)
        | "Spread blocks" >> beam.Reshuffle()
    )


def _read(file: int, plan: bytes, splits: Sequence[str] | None) -> Iterator[Keyed]:
    loaded: Plan = pickle.loads(plan)
    for block in steps.blocks(loaded, loaded.shards()[file], Position(file), splits):
        yield (block.start.file, block.start.record), pickle.dumps(block)


def _write_keys(keyed: Keyed, plan: bytes, verdicts: Verdicts, place: int, directory: str) -> None:
    (file, record), block = keyed
    found = steps.worker(plan, verdicts).keys(pickle.loads(block), place)
    save_arrays(epath.Path(directory) / f"{file}-{record}.npz", found._asdict())


def _decide(plan: Plan, place: int, keys: epath.Path) -> str:
    """The file with what a corpus stage decides; this happens where the pipelines are started from."""
    files = sorted(keys.glob("*.npz"), key=lambda file: [int(part) for part in file.stem.split("-")])
    verdict = plan.cleaner.stages[place].decide(lambda: (Record(**load_arrays(file)) for file in files))
    path = keys.parent / f"verdict-{place}.npz"
    save_arrays(path, verdict)
    return str(path)


def _encode(keyed: Keyed, plan: bytes, verdicts: Verdicts) -> Keyed:
    start, block = keyed
    return start, pickle.dumps(steps.worker(plan, verdicts).encode(pickle.loads(block)))


def _sizes(keyed: Keyed) -> tuple[tuple[int, int], dict[str, int]]:
    start, encoded = keyed
    return start, pickle.loads(encoded).tokens()


def _plan_groups(sizes: Iterable[tuple[tuple[int, int], dict[str, int]]], plan: bytes) -> dict[tuple[int, int], int]:
    """The group of each block, by where it begins."""
    grouping, number, found = Grouping(pickle.loads(plan).shard_tokens), 0, {}
    for start, tokens in sorted(sizes, key=lambda each: each[0]):
        number += not grouping.admits(tokens)
        found[start] = number
    return found


def _assign(keyed: Keyed, groups: dict[tuple[int, int], int]) -> tuple[int, Keyed]:
    return groups[keyed[0]], keyed


def _write_group(numbered: tuple[int, Iterable[Keyed]], plan: bytes, output: str) -> str:
    number, blocks = numbered
    writer = GroupWriter(epath.Path(output), pickle.loads(plan), number)
    for _, encoded in sorted(blocks, key=lambda keyed: keyed[0]):
        writer.append(pickle.loads(encoded))
    return json.dumps(asdict(writer.close()))


def _digest(file: int, plan: bytes) -> tuple[int, str]:
    shard = pickle.loads(plan).shards()[file]
    source = SourceFile(name=shard.file.name, sha256=shard.digest(), bytes=shard.seen.size)
    return file, json.dumps(asdict(source))


def _finish(groups: list[str], digests: list[tuple[int, str]], plan: bytes, output: str) -> None:
    found = [section(SourceFile, json.loads(source), "") for _, source in sorted(digests)]
    written = sorted((section(ShardGroup, json.loads(group), "") for group in groups), key=lambda group: group.number)
    finish(epath.Path(output), pickle.loads(plan), found, written)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; what it does not know is Beam's."""
    parser = argparse.ArgumentParser(
        prog="python -m t5x_like.data.prepare_beam",
        description="Prepare a corpus with Apache Beam. Flags that are not listed are Beam's, such as --runner.",
        allow_abbrev=False,
    )
    corpus = parser.add_mutually_exclusive_group(required=True)
    corpus.add_argument("--input", metavar="PATH", help="a file or a glob of files in any format that data.task reads")
    corpus.add_argument(
        "--experiment",
        metavar="FILE",
        help="JSON with an experiment whose data.task to read, as t5x_like config show --json prints it",
    )
    parser.add_argument("--field", default="text", help="with --input: the key or column of the text (default text)")
    parser.add_argument(
        "--tokenizer", default="", metavar="FILE", help="with --input: a .model or tokenizer.json file, or bytes"
    )
    parser.add_argument("--split", action="append", default=[], metavar="NAME", help="may be repeated (default all)")
    parser.add_argument("--stages", default="", metavar="NAMES|FILE", help="of cleaning, as for t5x_like data clean")
    parser.add_argument("--shard-tokens", type=int, default=steps.SHARD_TOKENS, metavar="N", help="at most")
    parser.add_argument("--output", required=True, metavar="DIRECTORY", help="that all workers see")
    options, rest = parser.parse_known_args(arguments)
    try:
        from apache_beam.options.pipeline_options import PipelineOptions

        prepare(_plan(options), options.output, PipelineOptions(rest))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(f"error: {str(error).splitlines()[0]}; see docs/data.md on Apache Beam", file=sys.stderr)
        return 2
    return 0


def _plan(options: argparse.Namespace) -> Plan:
    if options.input:
        task: Any = {"name": "text", "path": options.input, "field": options.field, "tokenizer": options.tokenizer}
    else:
        try:
            values = json.loads(sources.read_bytes(options.experiment, "--experiment"))
            schema = {migrations.KEY: values.get(migrations.KEY, 1)}
            task = migrations.upgrade(values.get("experiment", values) | schema, options.experiment)["data"]["task"]
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise UserError(f"--experiment: {options.experiment} holds no experiment: {error}") from None
    found = section(Data, {"task": task}, "data").task
    if not isinstance(found, steps.TextTask):
        raise UserError(f"data.task: {found.name!r} is no corpus of text; give --input=PATH")
    return Plan(
        task=found,
        splits=tuple(dict.fromkeys(options.split)) or tuple(found.splits),
        cleaner=steps.cleaner_of(found, options.stages),
        shard_tokens=options.shard_tokens,
    )


if __name__ == "__main__":
    # By its own name, so that workers find its functions there and not in a program of theirs.
    from t5x_like.data import prepare_beam

    sys.exit(prepare_beam.main())
