"""Measures how much text each stage of cleaning takes in a second, on one core.

    python tools/bench_cleaning.py                              # 32 MB of each corpus, every stage
    python tools/bench_cleaning.py --stages=c4,language --megabytes=8

Two corpora: `sotu`, the speeches that ship with the program, again and again, each one long line; and `web`, generated
pages of 300 to 6,000 words in lines, with headings, menus, counters, policies, code and repetitions among prose of
those speeches. Generated pages have the lengths and the clutter of web pages, not their variety.

Prints MB (10⁶ bytes of UTF-8) a second of processor time, and the share of the documents that a stage keeps. A stage
that must see the whole corpus first has two figures, of the pass that makes its keys and of the pass that applies its
verdict, and the time that the verdict itself takes is added to the first. The median of the rounds counts.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from t5x_like import registry
from t5x_like.data import sources
from t5x_like.data.cleaning import keys as keys_of
from t5x_like.data.cleaning.base import CorpusStage
from t5x_like.data.cleaning.cleaner import Cleaner
from t5x_like.data.cleaning.text import byte_length, sentences

SOTU = "package:sotu/sotu.jsonl.zst"
CLUTTER = (
    "Home | About us | Contact",
    "Sign in",
    "3 likes",
    "12",
    "READ OUR LATEST NEWS TODAY",
    "Please enable javascript to see all of this page.",
    "By going on you accept our privacy policy and the use of cookies.",
    "0 items in cart",
    "Continue reading...",
    "Posted by the editor on Monday",
    "• a point of a list",
)


def speeches() -> list[str]:
    """The texts of the shipped corpus."""
    return [text for _, text in sources.read_texts(sources.find(SOTU), "text", "bench")]


def repeated(size: int) -> Iterator[str]:
    """The speeches over and over, until there are `size` bytes."""
    while True:
        for text in speeches():
            yield text
            size -= byte_length(text)
            if size <= 0:
                return


def web(size: int, rng: random.Random) -> Iterator[str]:
    """Generated pages, until there are `size` bytes."""
    prose = [sentence for text in speeches() for sentence in sentences(text)]
    while size > 0:
        lines = []
        words, length = 0, int(min(rng.lognormvariate(6.5, 0.8) + 300, 6000))
        clutter = rng.choice((0.0, 0.02, 0.1, 0.4, 0.8))
        while words < length:
            if rng.random() < clutter:
                lines.append(rng.choice(CLUTTER))
            else:
                begin = rng.randrange(len(prose) - 5)
                lines.append("".join(prose[begin : begin + rng.randint(1, 5)]).strip())
            words += len(lines[-1].split())
        if rng.random() < 0.05:
            lines += ["function go() { return false; }"]
        if rng.random() < 0.05:
            lines += lines[: len(lines) // 2]
        page = "\n".join(lines)
        size -= byte_length(page)
        yield page


def seconds_of(stage: object, texts: list[str]) -> tuple[list[float], int]:
    """(seconds of each pass, documents kept)."""
    start = time.process_time()
    if not isinstance(stage, CorpusStage):
        kept = sum(stage.clean(text).text is not None for text in texts)
        return [time.process_time() - start], kept
    record = keys_of.record([stage.keys(text) for text in texts], range(len(texts)))
    verdict = stage.decide(lambda: iter([record]))
    middle = time.process_time()
    kept = sum(stage.apply(number, text, verdict).text is not None for number, text in enumerate(texts))
    return [middle - start, time.process_time() - middle], kept


def stage_named(name: str, folder: Path) -> object:
    """The stage with its defaults; the evaluation set to be found is the first speech of every tenth."""
    options: dict[str, object] = {"name": name}
    if name == "decontaminate":
        path = folder / "evaluation.jsonl"
        path.write_text("".join(json.dumps({"text": text[:2000]}) + "\n" for text in speeches()[::10]))
        options["paths"] = [str(path)]
    return Cleaner.of([options]).stages[0]


def main() -> None:
    """Parses the command line and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", default=",".join(registry.names("cleaning")))
    parser.add_argument("--megabytes", type=float, default=32, help="of each corpus")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    size = int(options.megabytes * 1e6)
    corpora = {"sotu": list(repeated(size)), "web": list(web(size, random.Random(0)))}
    for name, texts in corpora.items():
        total = sum(map(byte_length, texts))
        print(f"{name}: {len(texts):,} documents, {total / 1e6:.1f} MB")
    with tempfile.TemporaryDirectory() as folder:
        for stage_name in options.stages.split(","):
            stage = stage_named(stage_name, Path(folder))
            for name, texts in corpora.items():
                total = sum(map(byte_length, texts)) / 1e6
                rounds = [seconds_of(stage, texts) for _ in range(options.rounds)]
                passes = zip(*(seconds for seconds, _ in rounds), strict=True)
                speeds = "  ".join(f"{total / statistics.median(seconds):7.1f} MB/s" for seconds in passes)
                print(f"{stage_name:20s} {name:5s} keeps {rounds[0][1] / len(texts):5.3f}  {speeds}", flush=True)


if __name__ == "__main__":
    main()
