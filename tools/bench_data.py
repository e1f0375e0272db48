"""The speed of the data pipeline, on one core: by index, from anywhere in a run, and tokenised on the way.

    .venv/bin/python tools/bench_data.py

- `indexed`: tokens a second from memory-mapped windows to ready batches of 2,048 tokens a row.
- `resume`: seconds from a state at step 10, ten thousand and ten million to the first batch.
- `memory`: megabytes that the process grows by while it streams documents of 10 GB in all (generated, and encoded by a
  table: what grows would be the reading), in its second half.
- `streamed`, `seqio`: tokens a second from jsonl.zst through tokenising and packing, and SeqIO's for the same task and
  length. A document that is longer than a row is cut by both, so that both lose nothing.
- `cleaned`, `seqio cleaned`: the same of generated web pages, through the rules of C4 on the way; SeqIO's preprocessor
  calls the same function.

All in one run; the last four take turns, and ratios are of their medians. `--skip-seqio` leaves out what imports
TensorFlow.
"""

import argparse
import itertools
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

LENGTH, ROWS, LANES, VOCABULARY = 2048, 16, 16, 30_000
ROW = 512  # tokens of a row where texts are tokenised on the way
STEPS = {"10": 10, "10 thousand": 10_000, "10 million": 10_000_000}


def reading(corpus: Any, length: int = LENGTH, state: Any = None, **options: Any) -> Any:
    """A pipeline of causal language modelling."""
    from t5x_like.data.pipeline import Pipeline
    from t5x_like.objectives.causal_lm import CausalLM

    shape = {"sequence_length": length, "batch_size": ROWS, "lanes": LANES, "vocab_size": VOCABULARY}
    return Pipeline(corpus, CausalLM(), seed=0, state=state, **shape, **options)


def indexed(seconds: float) -> float:
    """Tokens a second, from tokens that are longer than the caches."""
    import numpy as np

    from t5x_like.data.dataset import Dataset
    from t5x_like.data.documents import Documents

    rng = np.random.default_rng(0)
    lengths = rng.integers(50, 3000, 40_000)
    tokens = rng.integers(3, VOCABULARY, int(lengths.sum()), np.uint16)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return speed(reading(Dataset.of(Documents(tokens, offsets, lengths))), seconds)


def speed(pipeline: Iterator[Any], seconds: float) -> float:
    """Tokens a second of CPU time of this process, the first batches aside."""
    for _ in range(8):
        next(pipeline)
    tokens, begin, wall = 0, time.process_time(), time.perf_counter()
    while time.perf_counter() - wall < seconds:
        tokens += next(pipeline).counts.tokens
    taken = time.process_time() - begin
    pipeline.close()  # type: ignore[attr-defined]
    return tokens / taken


def resume(rounds: int) -> dict[str, float]:
    """Median seconds to the first batch after a resumption, by step."""
    import numpy as np

    from t5x_like.experiment import Data
    from t5x_like.sections import section

    corpus = section(Data, {"task": "sotu"}, "data").task.open("train")
    times: dict[str, list[float]] = {name: [] for name in STEPS}
    for _ in range(rounds):
        for name, step in STEPS.items():
            state = np.array([[step * ROWS // LANES, 0]] * LANES, np.uint64)
            begin = time.perf_counter()
            pipeline = reading(corpus, 256, state)
            next(pipeline)
            times[name].append(time.perf_counter() - begin)
            pipeline.close()
    return {name: statistics.median(values) for name, values in times.items()}


def memory(gigabytes: float) -> float:
    """Megabytes that streaming grows by, from half of the way to its end; before, lanes fill their shuffle windows."""
    import numpy as np

    from t5x_like.data.streaming import StreamedComponent, StreamedDataset

    pages = ["".join(chr(97 + (i * j) % 26) for j in range(3000 + 31 * i)) for i in range(200)]

    class Generated:
        def records(self, start: int = 0) -> Iterator[tuple[int, str]]:
            return ((number, pages[number % len(pages)]) for number in itertools.count(start))

    def encode(texts: list[str]) -> list[np.ndarray]:
        bytes_a_token = 4
        return [np.append(np.frombuffer(text.encode(), np.uint8)[::bytes_a_token], 1) for text in texts]

    stream = StreamedComponent("", (Generated(),) * LANES, lambda shard, record: True, encode, np.dtype(np.uint16))
    pipeline = reading(StreamedDataset((stream,)))
    tokens, begin = 0, 0.0
    while tokens < gigabytes * 1e9 / 4:
        tokens += next(pipeline).counts.tokens
        if not begin and tokens > gigabytes * 5e8 / 4:
            begin = resident()
    grown = resident() - begin
    pipeline.close()
    return grown


def resident() -> float:
    """Megabytes of memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


def parts_of_speeches() -> Iterator[str]:
    """The shipped corpus cut into documents of web-page size."""
    from t5x_like.experiment import Data
    from t5x_like.sections import section

    texts = section(Data, {"task": "sotu"}, "data").task.texts("train")
    return (text[i : i + 3000] for text in texts for i in range(0, len(text), 3000))


def files_of(texts: Iterable[str], place: Path) -> list[Path]:
    """The texts as jsonl.zst, in as many files as there are lanes."""
    import zstandard

    place.mkdir()
    rows = [json.dumps({"text": text}) + "\n" for text in texts]
    files = [place / f"{number:02d}.jsonl.zst" for number in range(LANES)]
    for number, file in enumerate(files):
        file.write_bytes(zstandard.compress("".join(rows[number::LANES]).encode()))
    return files


def streamed(files: list[Path], cleaning: list[str], seconds: float) -> float:
    """Tokens a second of CPU time of our streaming path, over whole epochs: texts are read in large blocks."""
    from t5x_like.experiment import Data
    from t5x_like.sections import section

    task = {
        "name": "text",
        "path": str(files[0].parent / "*.jsonl.zst"),
        "tokenizer": "package:sotu/vocabulary.model",
        "cleaning": cleaning,
        "splits": {"train": {}},
    }
    corpus = section(Data, {"task": task}, "data").task.stream("train")
    begin, wall = time.process_time(), time.perf_counter()
    pipeline = reading(corpus, ROW)
    tokens, epoch, ended = 0, 0.0, False
    while time.perf_counter() - wall < seconds or not ended:
        counts = next(pipeline).counts
        tokens += counts.tokens
        ended, epoch = int(counts.epoch) > int(epoch), counts.epoch
    taken = time.process_time() - begin
    pipeline.close()
    return tokens / taken


def cleaned_by_c4(dataset: Any) -> Any:
    """A preprocessor for SeqIO: the rules of C4, as the Python function they are."""
    import tensorflow as tf

    from t5x_like.data.cleaning.c4 import C4

    stage = C4()

    def clean(text: bytes) -> bytes:
        return (stage.clean(text.decode()).text or "").encode()

    def on_example(example: dict[str, Any]) -> dict[str, Any]:
        text = tf.numpy_function(clean, [example["targets"]], tf.string, stateful=False)
        return {"targets": tf.ensure_shape(text, ())}

    return dataset.map(on_example, tf.data.AUTOTUNE).filter(lambda example: tf.strings.length(example["targets"]) > 0)


def cut_to_rows(dataset: Any) -> Any:
    """A preprocessor for SeqIO, whose converter would cut off what is longer than a row: parts of at most a row."""
    import tensorflow as tf

    def parts(example: dict[str, Any]) -> Any:
        ids = example["targets"]
        ids = tf.pad(ids, [[0, -tf.size(ids) % ROW]])
        return tf.data.Dataset.from_tensor_slices({"targets": tf.reshape(ids, (-1, ROW))})

    def without_padding(example: dict[str, Any]) -> dict[str, Any]:
        return {"targets": tf.boolean_mask(example["targets"], example["targets"] > 0)}

    return dataset.flat_map(parts).map(without_padding, tf.data.AUTOTUNE)


def through_seqio(files: list[Path], name: str, *preprocessors: Any) -> Any:
    """A function from seconds to tokens a second of SeqIO, for the same files, packed by its converter."""
    import seqio
    import tensorflow as tf
    import zstandard

    from t5x_like.data import sources

    def texts(split: str, shuffle_files: bool = False, seed: int | None = None) -> Any:
        def lines() -> Iterator[dict[str, str]]:
            for file in files:
                content = zstandard.decompress(file.read_bytes())
                yield from ({"targets": json.loads(line)["text"]} for line in content.splitlines())

        return tf.data.Dataset.from_generator(lines, output_signature={"targets": tf.TensorSpec((), tf.string)})

    vocabulary = seqio.SentencePieceVocabulary(str(sources.resolve("package:sotu/vocabulary.model")))
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(texts, splits=["train"]),
        preprocessors=[*preprocessors, seqio.preprocessors.tokenize, seqio.preprocessors.append_eos, cut_to_rows],
        output_features={"targets": seqio.Feature(vocabulary, add_eos=True)},
    )

    def run(seconds: float) -> float:
        dataset = seqio.get_dataset(
            name,
            {"targets": ROW},
            dataset_split="train",
            shuffle=True,
            num_epochs=None,
            feature_converter=seqio.LMFeatureConverter(pack=True),
        )
        batches = dataset.batch(ROWS, drop_remainder=True).as_numpy_iterator()
        for _ in range(8):
            next(batches)
        tokens, begin, wall = 0, time.process_time(), time.perf_counter()
        while time.perf_counter() - wall < seconds:
            tokens += int((next(batches)["decoder_target_tokens"] > 0).sum())
        return tokens / (time.process_time() - begin)

    return run


def main() -> None:
    """Prints one line a figure, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gigabytes", type=float, default=10.0)
    parser.add_argument("--skip-seqio", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    found: dict[str, Any] = {"indexed_tokens_per_second": indexed(options.seconds)}
    found["resume_seconds"] = resume(options.rounds)
    found["memory_megabytes"] = memory(options.gigabytes)
    with tempfile.TemporaryDirectory() as place:
        from bench_cleaning import web

        pages = files_of(parts_of_speeches(), Path(place) / "speeches")
        webs = files_of(web(16_000_000, random.Random(0)), Path(place) / "web")
        sides = {
            "streamed": lambda seconds: streamed(pages, [], seconds),
            "cleaned": lambda seconds: streamed(webs, ["c4"], seconds),
        }
        if not options.skip_seqio:
            sides["seqio"] = through_seqio(pages, "bench_pages")
            sides["seqio_cleaned"] = through_seqio(webs, "bench_web", cleaned_by_c4)
        speeds = {name: [] for name in sides}
        for _, (name, side) in itertools.product(range(options.rounds), sides.items()):
            speeds[name].append(side(options.seconds))
    for name, values in speeds.items():
        found[f"{name}_tokens_per_second"] = statistics.median(values)
    if "seqio" in speeds:
        for ours, theirs in (("streamed", "seqio"), ("cleaned", "seqio_cleaned")):
            ratio = found[f"{ours}_tokens_per_second"] / found[f"{theirs}_tokens_per_second"]
            found[f"{ours}_over_{theirs}"] = ratio
    if options.json:
        print(json.dumps(found, indent=2))
        return
    print(f"indexed    {found['indexed_tokens_per_second'] / 1e6:.1f} M tokens/s")
    print("resume     " + ", ".join(f"step {name}: {1e3 * s:.1f} ms" for name, s in found["resume_seconds"].items()))
    print(f"memory     {found['memory_megabytes']:+.1f} MB over {options.gigabytes:g} GB")
    for name in speeds:
        print(f"{name:14} {found[f'{name}_tokens_per_second'] / 1e6:.2f} M tokens/s")
    if "seqio" in speeds:
        print(f"streamed / seqio        {found['streamed_over_seqio']:.2f}")
        print(f"cleaned / seqio_cleaned {found['cleaned_over_seqio_cleaned']:.2f}")


if __name__ == "__main__":
    main()
