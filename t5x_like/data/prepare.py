"""Preparing a corpus on this machine: read, cleaned and tokenised once, and written as shards of tokens.

One process, this one, writes; the others clean and tokenise, and their results are taken in order, so that their number
changes nothing. What is finished is noted group by group: a run that is killed goes on at the beginning of the group it
was at, and ends with the same bytes.

Where there are many files, each is read by one of the others, which leaves its results on the disk until their turn
comes. A few large files are read by this process, which hands out blocks; it keeps a handful of others busy.
"""

import collections
import contextlib
import functools
import json
import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from typing import Any, NamedTuple, TypeVar

from etils import epath

from t5x_like.data import prepare_steps as steps
from t5x_like.data.cleaning.base import Record
from t5x_like.data.prepare_groups import Grouping, GroupWriter, ShardGroup, finish
from t5x_like.data.prepare_steps import Block, EncodedBlock, Plan, Position
from t5x_like.data.token_files import (
    MANIFEST,
    CorpusManifest,
    SourceFile,
    is_local,
    load_arrays,
    read_manifest,
    save_arrays,
    write_whole,
)
from t5x_like.errors import UserError
from t5x_like.sections import section

_STATE = "state"  # below the output until the manifest is there
_IDENTITY = "identity"
_SPOOL = "spool-"
_AHEAD = 2  # jobs a process that wait for it, or for their turn to be written

Verdicts = tuple[tuple[int, str], ...]
Splits = Sequence[str] | None
Result = TypeVar("Result")


class Done(NamedTuple):
    """Progress of a pass.

    Attributes:
      name: of the pass.
      read: stored bytes of the corpus up to here.
      total: stored bytes of the corpus.
      documents: read by this run of the program so far.
      tokens: written by this run of the program so far.
    """

    name: str
    read: int
    total: int
    documents: int
    tokens: int


def prepare(
    plan: Plan,
    output: epath.Path,
    *,
    processes: int,
    setup: Callable[[], None] | None = None,
    progress: Callable[[Done], None] = lambda done: None,
) -> CorpusManifest:
    """Prepares a corpus, or goes on with it; see the module.

    Args:
      plan: what to prepare.
      output: a directory on a disk or an object store; one that holds something else is refused.
      processes: how many clean and tokenise; 1 does it in this one.
      setup: called first in every process, to import a user's modules.
      progress: told how far it is, after every block.

    Raises:
      UserError: when the output holds something else, the corpus cannot be read, or a process dies.
    """
    if processes < 1:
        raise UserError(f"--processes is {processes}; it must be at least 1")
    shards = plan.shards()
    with ThreadPoolExecutor(processes) as threads:  # hashing leaves other threads alone
        digests = list(threads.map(lambda shard: shard.digest(), shards))
    found = [
        SourceFile(name=shard.file.name, bytes=shard.seen.size, sha256=digest)
        for shard, digest in zip(shards, digests, strict=True)
    ]
    state = output / _STATE
    manifest = _claim(output, plan.identity(found))
    if manifest is None:
        for left in state.glob(f"{_SPOOL}*"):  # of a run that was killed
            left.rmtree()
        run = _Run(plan, output, processes, setup, progress)
        groups = run.groups(run.verdicts())
        manifest = finish(output, plan, found, groups)
    if state.exists():
        state.rmtree()
    return manifest


def _claim(output: epath.Path, identity: str) -> CorpusManifest | None:
    """Makes the output ours; gives its manifest if it is finished.

    Raises:
      UserError: when something else is there.
    """
    mark = output / _STATE / _IDENTITY
    if (output / MANIFEST).exists():
        manifest = read_manifest(output, "--output")
        if manifest.identity == identity:
            return manifest
        known = manifest.identity
    elif mark.exists():
        known = mark.read_text()
    elif output.exists() and any(output.iterdir()):
        raise UserError(f"--output: {output} has files that are no prepared corpus; give another directory")
    else:
        mark.parent.mkdir(parents=True, exist_ok=True)
        write_whole(mark, identity.encode())
        return None
    if known != identity:
        raise UserError(
            f"--output: {output} holds another corpus, or this one with another tokenizer, cleaning, splits or size of"
            " shards; give another directory, or remove this one"
        )
    return None


class _Run:
    """One run of this program over a corpus."""

    def __init__(
        self,
        plan: Plan,
        output: epath.Path,
        processes: int,
        setup: Callable[[], None] | None,
        progress: Callable[[Done], None],
    ) -> None:
        self._plan, self._output, self._state = plan, output, output / _STATE
        self._processes, self._setup, self._progress = processes, setup, progress
        self._total = sum(shard.seen.size for shard in plan.shards())

    def verdicts(self) -> Verdicts:
        """The files with what each corpus stage decided, each from a pass over the corpus."""
        found: Verdicts = ()
        for place in self._plan.cleaner.corpus_stages():
            found += ((place, str(self._verdict(place, found))),)
        return found

    def groups(self, verdicts: Verdicts) -> list[ShardGroup]:
        """The last pass, which writes the shards of every group that is not written."""
        groups, documents, tokens = self._finished(), 0, 0
        start = Position(*groups[-1].following) if groups else Position()
        work = functools.partial(_encode, self._plan.pickled(), verdicts)
        grouping = Grouping(self._plan.shard_tokens)
        writer = self._writer(len(groups))
        try:
            for block, encoded in self._each(work, start, self._plan.splits):
                if not grouping.admits(encoded.tokens()):
                    groups.append(self._note(writer.close()))
                    writer = self._writer(len(groups))
                writer.append(encoded)
                documents += encoded.documents
                tokens += sum(encoded.tokens().values())
                self._tell("prepare", block, documents, tokens)
            if not groups or Position(*groups[-1].following).file < len(self._plan.shards()):
                groups.append(self._note(writer.close()))
        except BaseException:
            writer.abandon()
            raise
        return groups

    def _verdict(self, place: int, before: Verdicts) -> epath.Path:
        """The file with what one corpus stage decided."""
        stage, verdict = self._plan.cleaner.stages[place], self._state / f"verdict-{place}.npz"
        keys = self._state / f"keys-{place}"
        if not verdict.exists():
            keys.mkdir(parents=True, exist_ok=True)
            files: list[epath.Path] = []
            work = functools.partial(_keys, self._plan.pickled(), before, place, str(keys))
            for block, name in self._each(work, Position(), None):
                files.append(keys / name)
                self._tell(f"look for {stage.name}", block, 0, 0)
            save_arrays(verdict, stage.decide(lambda: (Record(**load_arrays(file)) for file in files)))
        if keys.exists():
            keys.rmtree()
        return verdict

    def _blocks(self, start: Position, splits: Splits) -> Iterator[Block]:
        for file, shard in enumerate(self._plan.shards()[start.file :], start.file):
            yield from steps.blocks(self._plan, shard, start if file == start.file else Position(file), splits)

    def _writer(self, number: int) -> GroupWriter:
        return GroupWriter(self._output, self._plan, number)

    def _finished(self) -> list[ShardGroup]:
        """The groups that were written before, in order."""
        groups: list[ShardGroup] = []
        while (file := self._record_of(len(groups))).exists():
            groups.append(section(ShardGroup, json.loads(file.read_text()), file.name))
        return groups

    def _note(self, group: ShardGroup) -> ShardGroup:
        write_whole(self._record_of(group.number), json.dumps(asdict(group)).encode())
        return group

    def _record_of(self, group: int) -> epath.Path:
        return self._state / f"group-{group:05d}.json"

    def _tell(self, name: str, block: Block, documents: int, tokens: int) -> None:
        before = sum(shard.seen.size for shard in self._plan.shards()[: block.start.file])
        self._progress(Done(name, before + block.read, self._total, documents, tokens))

    def _each(self, work: Callable[[Block], Result], start: Position, splits: Splits) -> Iterator[tuple[Block, Result]]:
        """Every block with what becomes of it, in order; memory holds a few blocks a process."""
        if self._processes == 1:
            if self._setup is not None:
                self._setup()
            for block in self._blocks(start, splits):
                yield block, work(block)
            return
        sizes = [shard.seen.size for shard in self._plan.shards()[start.file :]]
        with _pool(self._processes, self._setup) as executor:
            if max(sizes, default=0) * _AHEAD * self._processes <= sum(sizes):
                yield from self._file_by_file(executor, work, start, splits)
            else:
                jobs = (
                    (block._replace(documents=[]), executor.submit(work, block))
                    for block in self._blocks(start, splits)
                )
                yield from ((block, _result(future)) for block, future in self._ahead(jobs))

    def _file_by_file(
        self, executor: ProcessPoolExecutor, work: Callable[[Block], Result], start: Position, splits: Splits
    ) -> Iterator[tuple[Block, Result]]:
        plan, last = self._plan.pickled(), len(self._plan.shards())
        with tempfile.TemporaryDirectory(prefix=_SPOOL, dir=self._state if is_local(self._state) else None) as place:
            starts = [start, *map(Position, range(start.file + 1, last))]
            files = (os.path.join(place, str(position.file)) for position in starts)
            jobs = (
                (file, executor.submit(_spool, plan, work, position, splits, file))
                for file, position in zip(files, starts, strict=True)
            )
            for file, future in self._ahead(jobs):
                _result(future)
                yield from _unspool(file)
                os.unlink(file)

    def _ahead(self, jobs: Iterable[tuple[Any, Future[Any]]]) -> Iterator[tuple[Any, Future[Any]]]:
        """The jobs in order, begun so far ahead that no process waits."""
        waiting: collections.deque[tuple[Any, Future[Any]]] = collections.deque()
        for job in jobs:
            waiting.append(job)
            if len(waiting) > _AHEAD * self._processes:
                yield waiting.popleft()
        yield from waiting


def _spool(plan: bytes, work: Callable[[Block], Any], start: Position, splits: Splits, file: str) -> None:
    """Does the work of one input file, and writes what comes of each block to a file."""
    loaded = _loaded(plan)
    with open(file, "wb") as stream:
        for block in steps.blocks(loaded, loaded.shards()[start.file], start, splits):
            pickle.dump((block._replace(documents=[]), work(block)), stream)


def _unspool(file: str) -> Iterator[tuple[Block, Any]]:
    """The results that `_spool` wrote, in a process of ours and a moment ago."""
    with open(file, "rb") as stream:
        while True:
            try:
                yield pickle.load(stream)
            except EOFError:
                return


@functools.lru_cache(maxsize=1)
def _loaded(plan: bytes) -> Plan:
    return pickle.loads(plan)


def _encode(plan: bytes, verdicts: Verdicts, block: Block) -> EncodedBlock:
    return steps.worker(plan, verdicts).encode(block)


def _keys(plan: bytes, verdicts: Verdicts, place: int, directory: str, block: Block) -> str:
    """The name of the file with the keys of a block, which is written unless it is there."""
    name = f"{block.start.file}-{block.start.record}.npz"
    if not (file := epath.Path(directory) / name).exists():
        save_arrays(file, steps.worker(plan, verdicts).keys(block, place)._asdict())
    return name


def _result(future: Future[Result]) -> Result:
    try:
        return future.result()
    except BrokenProcessPool:
        raise UserError(
            "a process that tokenises was killed, perhaps for want of memory; give a smaller --processes and start"
            " again, to go on from here"
        ) from None


@contextlib.contextmanager
def _pool(processes: int, setup: Callable[[], None] | None) -> Iterator[ProcessPoolExecutor]:
    # A fork of a process with threads may hang, and whoever calls this may have some.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(processes, mp_context=context, initializer=_begin, initargs=(setup,))
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


def _begin(setup: Callable[[], None] | None) -> None:
    """Start-up of every process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process says what happened
    parent: Any = multiprocessing.parent_process()
    # Where the first process is killed the others would wait for work for ever.
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    if setup is not None:
        setup()
