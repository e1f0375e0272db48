"""Cleaning a whole corpus with several processes, so that it can be stopped at any time and taken up again.

The corpus is read in groups of documents whose borders do not depend on the number of processes. For each stage that
must see the whole corpus there is a pass in which every group leaves one file of keys, and then a verdict; a last pass
writes every group's documents and counts. What is there already is not made again. Each pass runs the stages before
its own anew, which costs their time and spares the disk a copy of the corpus a stage.
"""

import collections
import contextlib
import functools
import json
import multiprocessing
import pickle
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import zstandard

from t5x_like.data import sources
from t5x_like.data.cleaning import keys as keys_of
from t5x_like.data.cleaning.base import Record, Verdict
from t5x_like.data.cleaning.cleaner import Cleaner
from t5x_like.data.cleaning.counts import Counts
from t5x_like.errors import UserError

GROUP_CHARACTERS = 1 << 23  # after which a group of documents ends

_FORMAT = "1"  # part of every identity: raise it when the files mean something else
_IDENTITY = "identity.json"
_DRAFTS = ".draft-*"

Group = list[tuple[int, str]]
Pool = tuple[ProcessPoolExecutor, int] | None  # the processes, and how many they are


@dataclass(frozen=True, kw_only=True)
class CleaningInput:
    """Files of JSON lines to clean.

    Attributes:
      path: a file or a glob of JSON lines, as for a task.
      field: the key of the text in each line.
    """

    path: str
    field: str = "text"

    def groups(self) -> Iterator[Group]:
        """The documents with their numbers, in groups."""
        group: Group = []
        size = 0
        for number, text in sources.read_texts(sources.find(self.path, "corpus.path"), self.field, "corpus"):
            group.append((number, text))
            size += len(text)
            if size >= GROUP_CHARACTERS:
                yield group
                group, size = [], 0
        if group:
            yield group

    def digest(self) -> str:
        """Of the content of the files and the field."""
        return sources.digest(sources.find(self.path, "corpus.path"), "corpus.path") + f"-{self.field}"


class Job(NamedTuple):
    """Work on one group of documents, in any process.

    Attributes:
      cleaner: the stages, pickled once, so that a process makes them, and what they read, only once.
      verdicts: the places of corpus stages that are decided, and the files with their verdicts.
      place: the corpus stage whose keys are asked for, or −1 for the cleaned documents.
      group: the documents.
      output: the file to write; its counts go beside it.
    """

    cleaner: bytes
    verdicts: tuple[tuple[int, Path], ...]
    place: int
    group: Group
    output: Path


def clean_corpus(corpus: CleaningInput, cleaner: Cleaner, output: Path, processes: int = 1) -> Counts:
    """Writes what the stages leave of a corpus, the same bytes whatever the number of processes.

    Writes to `output` the files `part-000000.jsonl.zst`, … with lines `{"number": …, "text": …}`, `counts.json`, and
    below `state` what it takes to go on after an interruption, at most 16 bytes a key. The state may be removed when
    all is done.

    Args:
      corpus: what to read.
      cleaner: the stages.
      output: a directory on a disk; one that holds another corpus or other stages is refused.
      processes: how many work at the same time.

    Returns:
      The counts of the whole corpus.

    Raises:
      UserError: when the output holds something else, or the corpus or an option cannot be used.
    """
    state = output / "state"
    _claim(output, state, json.dumps([_FORMAT, corpus.digest(), cleaner.identity()]))
    # Files of the same names may hold something else than at the last call in this process.
    _cleaner.cache_clear()
    _verdicts.cache_clear()
    with _pool(processes) as pool:
        verdicts: tuple[tuple[int, Path], ...] = ()
        for place in cleaner.corpus_stages():
            verdicts += ((place, _decide(corpus, cleaner, place, verdicts, state, pool)),)
        parts = _jobs(corpus, cleaner, verdicts, -1, lambda index: output / f"part-{index:06d}.jsonl.zst")
        total = cleaner.counts()
        for part in _run(parts, _write_part, pool):
            total.add(Counts.from_dict(json.loads(_counts_of(part).read_text())))
    keys_of.write_whole(output / "counts.json", (json.dumps(total.to_dict(), indent=2) + "\n").encode())
    return total


def _decide(
    corpus: CleaningInput, cleaner: Cleaner, place: int, verdicts: tuple[tuple[int, Path], ...], state: Path, pool: Pool
) -> Path:
    """The file with the verdict of the corpus stage at `place`, given those of the ones before it."""
    verdict, keys = state / f"verdict-{place}.npz", state / f"keys-{place}"
    if not verdict.exists():
        jobs = _jobs(corpus, cleaner, verdicts, place, lambda index: keys / f"{index:06d}.npz")
        files = list(_run(jobs, _write_keys, pool))
        keys_of.save(verdict, dict(cleaner.stages[place].decide(functools.partial(_records, files))))
    shutil.rmtree(keys, ignore_errors=True)
    return verdict


def _jobs(
    corpus: CleaningInput,
    cleaner: Cleaner,
    verdicts: tuple[tuple[int, Path], ...],
    place: int,
    output: Callable[[int], Path],
) -> Iterator[Job]:
    """One pass: a job for every group."""
    pickled = pickle.dumps(cleaner)
    for index, group in enumerate(corpus.groups()):
        yield Job(pickled, verdicts, place, group, output(index))


@contextlib.contextmanager
def _pool(processes: int) -> Iterator[Pool]:
    """So many processes and how many, or None where the work is done in this one."""
    if processes == 1:
        yield None
        return
    # A fork of a process with threads may hang, and whoever calls this may have some.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as executor:
        try:
            yield executor, processes
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise


def _claim(output: Path, state: Path, identity: str) -> None:
    """Makes sure that what is in the output is of this corpus and these stages.

    Raises:
      UserError: when it is not.
    """
    file = state / _IDENTITY
    known = file.read_text() if file.exists() else ""
    if known != identity and (known or any(output.glob("part-*"))):
        raise UserError(f"{output} holds another corpus, or what other stages left of this one; give another directory")
    for draft in (*output.glob(_DRAFTS), *state.rglob(_DRAFTS)):
        draft.unlink()
    if not known:
        keys_of.write_whole(file, identity.encode())


def _run(jobs: Iterable[Job], work: Callable[[Job], None], pool: Pool) -> Iterator[Path]:
    """Does the jobs whose file is not there yet; gives every job's file, in order."""
    if pool is None:
        for job in jobs:
            if not job.output.exists():
                work(job)
            yield job.output
        return
    executor, processes = pool
    waiting: collections.deque[tuple[Path, Future[None] | None]] = collections.deque()
    for job in jobs:
        waiting.append((job.output, None if job.output.exists() else executor.submit(work, job)))
        if len(waiting) > 2 * processes:  # no more documents in memory than the processes need
            yield _finished(*waiting.popleft())
    while waiting:
        yield _finished(*waiting.popleft())


def _finished(file: Path, future: Future[None] | None) -> Path:
    if future is not None:
        future.result()
    return file


def _write_keys(job: Job) -> None:
    """The keys of a group, as the job's stage sees its documents."""
    cleaner, verdicts = _cleaner(job.cleaner), _verdicts(job.verdicts)
    stage, counts = cleaner.stages[job.place], cleaner.counts()
    keys, numbers = [], []
    for number, text in job.group:
        left = cleaner.clean(text, counts, number, verdicts, stop=job.place).text
        if left is not None:
            keys.append(stage.keys(left))
            numbers.append(number)
    keys_of.save(job.output, keys_of.record(keys, numbers))


def _write_part(job: Job) -> None:
    """Writes what is left of a group; the counts first, so that the documents are never there without them."""
    cleaner, verdicts = _cleaner(job.cleaner), _verdicts(job.verdicts)
    counts = cleaner.counts()
    lines = []
    for number, text in job.group:
        left = cleaner.clean(text, counts, number, verdicts).text
        if left is not None:
            lines.append(json.dumps({"number": number, "text": left}, ensure_ascii=False) + "\n")
    keys_of.write_whole(_counts_of(job.output), json.dumps(counts.to_dict()).encode())
    keys_of.write_whole(job.output, zstandard.compress("".join(lines).encode()))


def _counts_of(part: Path) -> Path:
    return part.parent / "state" / "counts" / f"{part.name}.json"


def _records(files: list[Path]) -> Iterator[Record]:
    for file in files:
        yield Record(**keys_of.load(file))


@functools.lru_cache(maxsize=1)
def _cleaner(pickled: bytes) -> Cleaner:
    return pickle.loads(pickled)


@functools.lru_cache(maxsize=1)
def _verdicts(files: tuple[tuple[int, Path], ...]) -> dict[int, Verdict]:
    return {place: keys_of.load(file) for place, file in files}
