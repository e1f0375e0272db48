"""The stall and the speed of commits, against one copy of the state and raw writes of the same bytes, in the same run.

    python tools/bench_checkpoint.py --megabytes=400 --rounds=3 --directory=/path/to/the/disk

Interleaved, a round each: a copy of the state in memory, a commit (the seconds that the caller waits, and the seconds
until it is durable, digests included), a raw write and fsync of as many random bytes, a restore (verified), a raw read
of a file that is not in the cache. Prints seconds, bytes a second, and the ratios.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from t5x_like.distributed import startup

startup.prepare()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from t5x_like.checkpoint.store import CheckpointStore  # noqa: E402
from t5x_like.experiment import Checkpoint  # noqa: E402

_LEAVES = 16


def seconds(work: Callable[[], object]) -> float:
    """The seconds that some work takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def raw_write(file: Path, content: bytes) -> None:
    """Writes and syncs."""
    with open(file, "wb", buffering=0) as stream:
        view = memoryview(content)
        while view:
            view = view[stream.write(view) :]
        os.fsync(stream.fileno())


def drop(*files: Path) -> None:
    """Asks the system to forget what it has of files in memory, so that a read is one of the disk."""
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def round_of(store: CheckpointStore, directory: Path, state: dict[str, jax.Array], step: int) -> dict[str, float]:
    """The seconds of each part of one round."""
    content = b"".join(np.asarray(array).tobytes() for array in state.values())
    found = {"copy": seconds(lambda: [np.array(array, copy=True) for array in state.values()])}
    began = time.perf_counter()
    store.save(step, state, {}, np.zeros(1, np.uint64))
    found["stall"] = time.perf_counter() - began
    store.wait()
    found["commit"] = time.perf_counter() - began
    found["raw write"] = seconds(lambda: raw_write(directory / "raw", content))
    abstract = jax.eval_shape(lambda: state)
    drop(*(file for file in (directory / "checkpoints" / str(step)).rglob("*") if file.is_file()))
    found["restore"] = seconds(lambda: jax.block_until_ready(store.restore(step, abstract).state))
    drop(directory / "raw")
    found["raw read"] = seconds((directory / "raw").read_bytes)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the rounds and prints the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--megabytes", type=float, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", default=None, help="on the disk that is measured")
    options = parser.parse_args(arguments)
    size = int(options.megabytes * 1e6 / 4 / _LEAVES)
    keys = jax.random.split(jax.random.key(0), _LEAVES)
    state = {f"x{number}": jax.random.bits(key, (size,), jnp.uint32) for number, key in enumerate(keys)}
    jax.block_until_ready(state)
    total = sum(array.nbytes for array in state.values())
    directory = Path(tempfile.mkdtemp(prefix="bench-checkpoint-", dir=options.directory))
    try:
        with CheckpointStore(directory / "checkpoints", Checkpoint(keep=1)) as store:
            round_of(store, directory, state, 1)  # compiles the digests, starts threads
            rounds = [round_of(store, directory, state, step) for step in range(2, options.rounds + 2)]
    finally:
        shutil.rmtree(directory)
    print(f"{total / 1e6:.0f} MB in {_LEAVES} arrays, {options.rounds} round(s), medians")
    median = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    for name, value in median.items():
        print(f"{name:>10} {value:8.3f} s {total / value / 1e6:10.0f} MB/s")
    ratios = {
        "stall / copy": [each["stall"] / each["copy"] for each in rounds],
        "commit / raw write speed": [each["raw write"] / each["commit"] for each in rounds],
        "restore / raw read speed": [each["raw read"] / each["restore"] for each in rounds],
    }
    for name, values in ratios.items():
        spread = f"{min(values):.2f} to {max(values):.2f}" if len(values) > 1 else ""
        print(f"{name:>26} {statistics.median(values):6.2f}  {spread}")


if __name__ == "__main__":
    main()
