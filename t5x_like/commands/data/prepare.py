"""`t5x_like data prepare`: a corpus cleaned and tokenised once, as shards that training maps into memory."""

import argparse
import functools
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from t5x_like.checks import whole
from t5x_like.commands import common
from t5x_like.commands.data import corpus
from t5x_like.distributed.interruption import Interruption

_MEGABYTE = 1_000_000


def add_parser(actions: Any) -> None:
    """Describes the command's flags."""
    parser = actions.add_parser(
        "prepare",
        help="clean and tokenise a corpus into shards that training reads at once",
        description="Clean and tokenise a corpus once, and write it as shards of tokens with a manifest.json, for the"
        " task `tokens`. Stopped or killed, it goes on where it was when it is started again, to the same bytes. The"
        " result does not depend on --processes.",
        epilog="example: t5x_like data prepare --input='corpus/*.jsonl.zst' --tokenizer=corpus/vocabulary.model"
        " --stages=c4,exact_duplicates --output=prepared",
        allow_abbrev=False,
    )
    corpus.add_flags(parser)
    parser.add_argument(
        "--tokenizer", default="", metavar="FILE", help="with --input: a .model or tokenizer.json file, or bytes"
    )
    parser.add_argument(
        "--split", action="append", default=[], metavar="NAME", help="a split to prepare; may be repeated (default all)"
    )
    corpus.add_stages(parser, required=False)
    parser.add_argument("--output", required=True, metavar="DIRECTORY", help="where shards and manifest.json go")
    parser.add_argument(
        "--shard-tokens",
        type=whole("--shard-tokens", 1),
        default=1 << 27,
        metavar="N",
        help="tokens of a shard at most (default 2^27)",
    )
    parser.add_argument(
        "--processes", type=whole("--processes", 1), metavar="N", help="that work at the same time (default one a core)"
    )
    common.add_modules(parser)
    common.add_json(parser)


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs the command."""
    from etils import epath

    from t5x_like.data.prepare import prepare
    from t5x_like.data.vocabulary import usable_cores

    output = epath.Path(options.output).expanduser()
    plan = _plan(options, rest)
    setup = functools.partial(common.import_modules, options.module) if options.module else None
    processes = options.processes or usable_cores()
    with Interruption() as interruption, _Bar(interruption) as bar:
        try:
            manifest = prepare(plan, output, processes=processes, setup=setup, progress=bar.show)
        except _StoppedError:
            assert interruption.signal is not None
            print(f"{interruption.signal.name}: start the same command again to go on from here", file=sys.stderr)
            return 128 + interruption.signal
    if options.json:
        common.print_json(_summary(manifest, str(output)))
    else:
        _print(manifest, str(output))
    return 0


def _plan(options: argparse.Namespace, rest: Sequence[str]) -> Any:
    from t5x_like.data.prepare_steps import Plan, cleaner_of
    from t5x_like.errors import UserError

    if options.tokenizer and not options.input:
        raise UserError("--tokenizer goes with --input; set data.task.tokenizer in the experiment")
    fields = {"tokenizer": options.tokenizer} if options.input else {}
    task = corpus.task(options, rest, "data prepare", **fields)
    splits = tuple(dict.fromkeys(options.split)) or tuple(task.splits)
    return Plan(task=task, splits=splits, cleaner=cleaner_of(task, options.stages), shard_tokens=options.shard_tokens)


def _megabytes(size: int) -> int:
    """Rounded up, so that what is small has one too."""
    return max(-(-size // _MEGABYTE), 1)


class _StoppedError(Exception):
    """The user, or a scheduler, has asked to stop."""


class _Bar:
    """A bar for each pass over the corpus, in megabytes of its files, with speeds."""

    def __init__(self, interruption: Interruption, clock: Callable[[], float] = time.monotonic) -> None:
        self._interruption = interruption
        self._clock, self._name = clock, ""
        self._began = self._shown = clock()
        self._progress: Any = None

    def show(self, done: Any) -> None:
        """Moves the bar to where a pass is; a good place to stop, too."""
        if self._interruption.signal is not None:
            raise _StoppedError
        from t5x_like.telemetry.progress import Progress

        if done.name != self._name:
            self.close()
            self._name, self._began = done.name, self._shown
            self._progress = Progress(
                _megabytes(done.total), _megabytes(done.read), unit=f"{done.name}: MB", clock=self._clock
            )
        self._shown = self._clock()
        seconds = max(self._shown - self._began, 1e-9)
        numbers = {"documents": done.documents, "tokens/s": done.tokens / seconds} if done.tokens else {}
        self._progress.update(_megabytes(done.read), numbers)

    def close(self) -> None:
        """Ends the bar of the pass."""
        if self._progress is not None:
            self._progress.close()

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _summary(manifest: Any, output: str) -> dict[str, Any]:
    """The object that `--json` prints."""
    import json

    return {
        "output": output,
        "identity": manifest.identity,
        "read": {"documents": manifest.read_documents, "bytes": manifest.read_bytes},
        "skipped": manifest.skipped,
        "cleaning": json.loads(manifest.counts),
        "splits": {
            name: {
                "documents": split.documents,
                "tokens": split.tokens,
                "bytes": split.bytes,
                "shards": len(split.shards),
            }
            for name, split in manifest.splits.items()
        },
    }


def _print(manifest: Any, output: str) -> None:
    import json

    from t5x_like.data.cleaning.counts import Counts

    print(f"read {manifest.read_documents:,} documents of {manifest.read_bytes:,} bytes")
    for kind, count in manifest.skipped.items():
        print(f"left out for {kind}: {count:,}")
    corpus.print_counts(Counts.from_dict({"stages": json.loads(manifest.counts)}))
    for name, split in manifest.splits.items():
        print(
            f"{name}: {split.documents:,} documents, {split.tokens:,} tokens of"
            f" {split.bytes / max(split.tokens, 1):.3f} bytes, {len(split.shards):,} shards"
        )
    print(f"{output}: read it with --config.data.task.name=tokens --config.data.task.path={output}")
