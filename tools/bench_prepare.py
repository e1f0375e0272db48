"""The share of the tokenizer's own speed that `t5x_like data prepare` keeps, on one core.

    python tools/bench_prepare.py [--megabytes=64] [--rounds=5]

Writes a corpus of JSON lines from parts of the shipped speeches, then takes turns: the tokenizer alone over texts in
memory (the quickest call it has), reading alone, and `prepare` in one process without cleaning, from files to shards.
All in CPU seconds of this process, so that other programs on the machine count little; the best of the rounds.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import zstandard
from etils import epath

from t5x_like.data import sources
from t5x_like.data.prepare import prepare
from t5x_like.data.prepare_steps import Plan
from t5x_like.experiment import Data
from t5x_like.sections import section


def main() -> None:
    """Prints one line a measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        corpus = Path(place) / "corpus.jsonl.zst"
        size = write_corpus(corpus, options.megabytes * 1_000_000)
        task = section(
            Data,
            {
                "task": {
                    "name": "text",
                    "path": str(corpus),
                    "tokenizer": "package:sotu/vocabulary.model",
                    "splits": {"train": {}},
                }
            },
            "data",
        ).task
        texts = [text for _, text in task.corpus().texts()]
        encode = task.vocabulary().encode_document
        plan = Plan(task=task, splits=("train",))
        rounds: dict[str, list[float]] = {"tokenizer alone": [], "reading alone": [], "prepare, no cleaning": []}
        for number in range(options.rounds):
            output = epath.Path(place) / f"out-{number}"
            for name, work in {
                "tokenizer alone": lambda: [encode(text) for text in texts],
                "reading alone": lambda: sum(1 for _ in task.corpus().texts()),
                "prepare, no cleaning": lambda output=output: prepare(plan, output, processes=1),
            }.items():
                rounds[name].append(seconds(work))
    for name, found in rounds.items():
        print(
            f"{name:22} {size / min(found) / 1e6:8.1f} MB/s a core"
            f"   (the slowest of {options.rounds} rounds: {size / max(found) / 1e6:.1f})"
        )
    ratio = min(rounds["tokenizer alone"]) / min(rounds["prepare, no cleaning"])
    print(f"prepare / tokenizer    {ratio:8.2f}")


def write_corpus(path: Path, size: int) -> int:
    """Parts of the speeches, of 200 to 6,000 characters; gives the UTF-8 bytes of the texts."""
    speeches = [t for _, t in sources.read_texts(sources.find("package:sotu/sotu.jsonl.zst"), "text", "")]
    rng = random.Random(0)
    rows, written = [], 0
    while written < size:
        speech = rng.choice(speeches)
        begin = rng.randrange(max(1, len(speech) - 4000))
        text = speech[begin : begin + rng.randrange(200, 6000)]
        rows.append(json.dumps({"text": text}) + "\n")
        written += len(text.encode())
    path.write_bytes(zstandard.compress("".join(rows).encode()))
    return written


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


if __name__ == "__main__":
    main()
