"""Inference over a SeqIO task or mixture into JSON lines, as T5X's `infer.py` does it.

Each task becomes `TASK-MODE.jsonl-SHARD-of-SHARDS`, a line an example, beside a file `….COMPLETED`. It is written in
chunks of so many batches, in a directory of its own, and a chunk that is there is not computed again: an inference that
was stopped goes on where it was.
"""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from etils import epath

from t5x_like import registry
from t5x_like.checks import require_positive
from t5x_like.distributed.processes import is_first
from t5x_like.errors import UserError
from t5x_like.evaluation.seqio_evaluator import Responder
from t5x_like.inference.decoding import Decoded
from t5x_like.io import files
from t5x_like.program import State

FILES_TASK = "t5x_like_tf_examples"  # the task of files that have none


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Options.

    Attributes:
      mixture: a SeqIO task or mixture.
      split: which split.
      features: the tokens that each feature has at most, to which SeqIO trims it.
      use_cached: read SeqIO's offline cache.
      batch_size: examples of a batch.
      mode: `predict`, `score`, or `predict_with_aux`, which writes the scores of predictions, too.
      checkpoint_period: batches of a chunk.
      shard_id: which part of the examples this is.
      num_shards: how many parts there are, each for a job of its own.
      merge: whether the chunks are joined at the end.
      file_extension: of the files.
      include_all_inputs: write every feature, not only those that end in `_pretokenized`.
      input_fields_to_include: write these features, and their `_pretokenized`.
      output_ids: write the predicted ids, too.
      all_answers: write every answer, the best last, and not only the best.
    """

    mixture: str
    split: str
    features: Mapping[str, int] = field(default_factory=dict)
    use_cached: bool = False
    batch_size: int = 32
    mode: str = "predict"
    checkpoint_period: int = 100
    shard_id: int = 0
    num_shards: int = 1
    merge: bool = True
    file_extension: str = "jsonl"
    include_all_inputs: bool = False
    input_fields_to_include: Sequence[str] | None = None
    output_ids: bool = False
    all_answers: bool = False

    def __post_init__(self) -> None:
        require_positive(self, "batch_size", "checkpoint_period", "num_shards")
        if not 0 <= self.shard_id < self.num_shards:
            raise UserError(f"shard_id is {self.shard_id}; it must be from 0 to {self.num_shards - 1}")
        if self.include_all_inputs and self.input_fields_to_include is not None:
            raise UserError("include_all_inputs and input_fields_to_include are both given; give one of the two")


def write(options: Predictions, responder: Responder, state: State, output: str) -> Iterator[tuple[str, int]]:
    """Writes the predictions or scores of each task.

    Yields:
      The path of each file that is whole, and its lines; those that were whole before have none.

    Raises:
      UserError: for a task or split that SeqIO does not know, or a directory that cannot be written.
    """
    import seqio

    directory = epath.Path(output).expanduser()
    files.make_directory(directory)
    known = {*seqio.MixtureRegistry.names(), *seqio.TaskRegistry.names()}
    if options.mixture not in known:
        hint = registry.suggest(options.mixture, sorted(known)) if known else "it knows none"
        raise UserError(
            f"SeqIO knows no task or mixture {options.mixture!r}; {hint}; --module=PATH imports what defines it"
        )
    for task in seqio.get_subtasks(seqio.get_mixture_or_task(options.mixture)):
        if options.split not in task.splits:
            raise UserError(
                f"{task.name} has no split {options.split!r}; {registry.suggest(options.split, task.splits)}"
            )
        yield _write_task(options, task, responder, state, directory)


def _write_task(
    options: Predictions, task: Any, responder: Responder, state: State, directory: epath.Path
) -> tuple[str, int]:
    part = f"{options.shard_id:05}-of-{options.num_shards:05}"
    name = f"{task.name}-{options.mode}.{options.file_extension}-{part}"
    complete = directory / f"{name}.COMPLETED"
    if complete.exists():
        return str(directory / name), 0
    chunks = directory / f"tmp-{task.name}-{part}"
    files.make_directory(chunks)
    count = 0
    for number, examples in enumerate(
        _chunked(_examples(options, task), options.batch_size * options.checkpoint_period)
    ):
        chunk = chunks / f"{name}-chunk{number:05}"
        count += len(examples)
        if chunk.exists():
            continue
        lines = [
            json.dumps(line, ensure_ascii=False) for line in _lines(options, task, responder, state, examples, number)
        ]
        if is_first():
            files.write(chunk, "".join(f"{line}\n" for line in lines).encode())
    if is_first():
        if options.merge:
            parts = sorted(chunks.glob(f"{name}-chunk*"))
            files.write(directory / name, b"".join(each.read_bytes() for each in parts))
            chunks.rmtree()
        files.write(complete, b"")
    return str(directory / name), count


def _examples(options: Predictions, task: Any) -> Iterator[Mapping[str, np.ndarray]]:
    import seqio

    try:
        dataset = task.get_dataset(
            sequence_length=dict(options.features) or None,
            split=options.split,
            shuffle=False,
            num_epochs=1,
            shard_info=seqio.ShardInfo(options.shard_id, options.num_shards),
            use_cached=options.use_cached,
            seed=0,
        )
        yield from dataset.as_numpy_iterator()
    except UserError:
        raise
    except Exception as error:  # whatever a user's preprocessors and TensorFlow raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"SeqIO cannot read {task.name!r}: {reason}") from error


def _chunked(examples: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while chunk := list(itertools.islice(examples, size)):
        yield chunk


def _lines(
    options: Predictions, task: Any, responder: Responder, state: State, examples: Sequence[Any], number: int
) -> Iterator[dict[str, Any]]:
    """A JSON object for each example of a chunk."""
    if options.mode == "score":
        for example, (_, score) in zip(examples, responder.score(state, enumerate(examples)), strict=True):
            yield {"inputs": _inputs(options, example), "score": score}
        return
    vocabulary = task.output_features["targets"].vocabulary
    key = jax.random.fold_in(jax.random.key(0), number)
    for example, (_, answers) in zip(examples, responder.decode(state, enumerate(examples), key), strict=True):
        found = [_answer(vocabulary, answer) for answer in answers]
        line: dict[str, Any] = {"inputs": _inputs(options, example)}
        line["prediction"] = [text for text, _ in found] if options.all_answers else found[-1][0]
        if options.output_ids:
            line["prediction_tokens"] = [ids for _, ids in found] if options.all_answers else found[-1][1]
        if options.mode == "predict_with_aux":
            scores = [answer.score for answer in answers]
            line["aux"] = {"scores": scores if options.all_answers else scores[-1]}
        yield line


def _answer(vocabulary: Any, answer: Decoded) -> tuple[str, list[int]]:
    ids = answer.ids.tolist()
    return str(vocabulary.decode(ids)), ids


def _inputs(options: Predictions, example: Mapping[str, Any]) -> dict[str, Any]:
    """The features of an example that are written with it."""
    names = [name for name in example if name.endswith("_pretokenized")]
    if options.include_all_inputs:
        names = list(example)
    elif options.input_fields_to_include is not None:
        wanted = options.input_fields_to_include
        names = [name for name in example if name.removesuffix("_pretokenized") in wanted]
    return {name: _plain(example[name]) for name in names}


def _plain(value: Any) -> Any:
    value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return [_plain(item) for item in value] if isinstance(value, list) else value


def register_files(
    paths: Sequence[str], inputs_key: str, targets_key: str | None, vocabularies: Mapping[str, Any], add_eos: Any
) -> None:
    """Registers the task `FILES_TASK`: the texts of files of TFExamples, its split is `infer`.

    Args:
      paths: of TFRecord files, or globs.
      inputs_key: the feature of an example that holds its inputs' text.
      targets_key: likewise its targets'; None for examples without.
      vocabularies: by feature, the class of SeqIO's vocabulary (`name`) and its arguments.
      add_eos: by feature, whether its ids get an end.

    Raises:
      UserError: when there is no file.
    """
    import functools

    import seqio
    import tensorflow as tf

    given = [paths] if isinstance(paths, str) else list(paths)
    found = tf.io.gfile.glob(given)
    if not found:
        raise UserError(f"TF_EXAMPLE_FILE_PATHS: there is no file {', '.join(map(repr, given))}; give TFRecord files")
    keys = [key for key in (inputs_key, targets_key) if key]
    features = {
        name: seqio.Feature(_vocabulary(vocabulary), add_eos=add_eos[name], required=name == "inputs")
        for name, vocabulary in vocabularies.items()
    }
    if FILES_TASK in seqio.TaskRegistry.names():
        seqio.TaskRegistry.remove(FILES_TASK)
    seqio.TaskRegistry.add(
        FILES_TASK,
        source=seqio.TFExampleDataSource(
            {"infer": found}, feature_description={key: tf.io.FixedLenFeature([], tf.string) for key in keys}
        ),
        preprocessors=[
            functools.partial(seqio.preprocessors.rekey, key_map={"inputs": inputs_key, "targets": targets_key}),
            seqio.preprocessors.tokenize_and_append_eos,
        ],
        output_features=features,
    )


def _vocabulary(options: Mapping[str, Any]) -> Any:
    import seqio

    arguments = {key: value for key, value in options.items() if key != "name"}
    return getattr(seqio, options["name"].removeprefix("seqio."))(**arguments)
