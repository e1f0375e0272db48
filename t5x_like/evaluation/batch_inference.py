"""Inference over a file of records: batched, resumable, in the order of the records.

What is done lies in `OUTPUT.part`, a line a record, beside `OUTPUT.part.json`, which says what it is the beginning of.
A run that was killed goes on behind the last whole line; the output appears under its name when it is complete.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from t5x_like.data.sources import read_bytes
from t5x_like.distributed import exchange
from t5x_like.distributed.processes import is_first
from t5x_like.errors import UserError
from t5x_like.evaluation.restored import Restored
from t5x_like.inference.embedding import Embedder
from t5x_like.inference.sampling import GREEDY, Sampling
from t5x_like.inference.scoring import scored_pair

FIELDS: Mapping[str, tuple[str, ...]] = {
    "predict": ("prompt",),
    "score": ("prompt", "continuation"),
    "embed": ("prompt",),
}
AT_ONCE = 256  # records between two writes

Answered = dict[str, Any]
Answer = Callable[[Sequence[Answered], int], Iterable[Answered]]


@dataclass(frozen=True)
class InferenceOptions:
    """Options of inference over a file.

    Attributes:
      mode: `predict` continues `prompt` as `text`; `score` gives the log-probability of `continuation` after `prompt`;
        `embed` gives the mean of the last states of `prompt`.
      tokens: how many to write at most.
      sampling: how they are chosen.
      seed: of the random choices; a record's hang on it and on the record's number.
      stops: texts that end a continuation.
    """

    mode: str
    tokens: int = 100
    sampling: Sampling = GREEDY
    seed: int = 0
    stops: tuple[str, ...] = ()


def infer(checkpoint: str, options: InferenceOptions, source: str, output: pathlib.Path, *, quantize: str = "") -> int:
    """Answers every record of a file, and gives how many there are.

    Args:
      checkpoint: a run's workdir, or one step inside it.
      options: what is asked of each record.
      source: JSON lines, each an object with the fields of the mode; other fields are kept.
      output: the records with what was found, a line each.
      quantize: see `Restored`.

    Raises:
      UserError: for a record that is none, before the model is read; and where the output is there already, or what is
        half-done is of another command.
    """
    content = read_bytes(source, "--input")
    records = parse(content, source, FIELDS[options.mode])
    progress = PartialOutput(output, {**_identity(checkpoint, options, content), "--quantize": quantize})
    done = progress.start()
    if done < len(records):
        answer = _answer(Restored(checkpoint, quantize=quantize), options)
        for first in range(done, len(records), AT_ONCE):
            part = records[first : first + AT_ONCE]
            progress.add([{**record, **new} for record, new in zip(part, answer(part, first), strict=True)])
    progress.finish()
    return len(records)


def parse(content: bytes, name: str, fields: Sequence[str]) -> list[Answered]:
    """The records of a file.

    Raises:
      UserError: for the first line that is no object with these fields as texts.
    """
    records = []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"--input: line {number} of {name} is no JSON ({error}); write an object a line") from None
        for field in fields:
            value = record.get(field) if isinstance(record, dict) else None
            if not isinstance(value, str) or any("\ud800" <= character <= "\udfff" for character in value):
                raise UserError(f"--input: line {number} of {name} has no text in the field {field}; give one")
        records.append(record)
    if not records:
        raise UserError(f"--input: {name} has no record; give a file with an object a line")
    return records


class PartialOutput:
    """The file that grows, and what it belongs to. The first process writes; all know how far it is."""

    def __init__(self, output: pathlib.Path, identity: Mapping[str, Any]) -> None:
        """Touches nothing."""
        self._output, self._identity = output, dict(identity)
        self._part = output.with_name(output.name + ".part")
        self._head = output.with_name(output.name + ".part.json")

    def start(self) -> int:
        """How many records are done.

        Raises:
          UserError: where the output is there already, or what is half-done is of another command.
        """
        done, problem = 0, ""
        if is_first():
            try:
                done = self._start()
            except UserError as error:
                problem = str(error)
        told = exchange.gather(np.array([done, bool(problem)], np.uint32))
        if told[:, 1].any():
            raise UserError(problem or f"{self._output} cannot be written; see the first process")
        return int(told[:, 0].max())

    def _start(self) -> int:
        if self._output.exists():
            raise UserError(f"--output: {self._output} is there already; remove it, or give another name")
        self._output.parent.mkdir(parents=True, exist_ok=True)
        if self._head.exists() and self._part.exists():
            before = json.loads(self._head.read_text())
            different = [key for key, value in self._identity.items() if before.get(key) != value]
            if different:
                raise UserError(
                    f"--output: {self._part} was begun with another {different[0]}; remove it, or give another name"
                )
            whole = self._part.read_bytes()
            whole = whole[: whole.rfind(b"\n") + 1]
            os.truncate(self._part, len(whole))
            return whole.count(b"\n")
        self._part.unlink(missing_ok=True)
        self._head.write_text(json.dumps(self._identity))
        self._part.touch()
        return 0

    def add(self, records: Sequence[Answered]) -> None:
        """Appends records, and returns when the disk has them."""
        if is_first():
            with self._part.open("ab") as file:
                file.write("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode())
                file.flush()
                os.fsync(file.fileno())

    def finish(self) -> None:
        """Gives the output its name."""
        if is_first():
            self._part.replace(self._output)
            self._head.unlink()


def _identity(checkpoint: str, options: InferenceOptions, content: bytes) -> dict[str, Any]:
    """What decides the output, by the words of the command."""
    return {
        "checkpoint": checkpoint,
        "input": hashlib.sha256(content).hexdigest(),
        "mode": options.mode,
        "sampling": repr((options.tokens, options.sampling, options.seed, options.stops)),
    }


def _answer(restored: Restored, options: InferenceOptions) -> Answer:
    """The function from records, and the number of the first one, to what is added to each."""
    made = {"predict": _predictor, "score": _scorer, "embed": _embedder}[options.mode]
    return made(restored, options)


def _predictor(restored: Restored, options: InferenceOptions) -> Answer:
    generate, key = restored.text_generator(), jax.random.key(options.seed)

    def predict(records: Sequence[Answered], first: int) -> Iterator[Answered]:
        prompts = [record["prompt"] for record in records]
        settings = {"tokens": options.tokens, "sampling": options.sampling, "stops": options.stops}
        try:
            texts = generate(restored.state, prompts, key=key, first=first, **settings)  # type: ignore[arg-type]
        except UserError as error:
            raise UserError(f"in records {first + 1} to {first + len(records)}: {error}") from None
        return ({"text": text} for text in texts)

    return predict


def _scorer(restored: Restored, options: InferenceOptions) -> Answer:
    score, vocabulary = restored.scorer(), restored.vocabulary()
    encodes = "encoder" in restored.program.architecture.stacks

    def scored(records: Sequence[Answered], first: int) -> Iterator[Answered]:
        pairs = [scored_pair(vocabulary, r["prompt"], r["continuation"], encodes=encodes) for r in records]
        lengths = [len(pair.targets) + (0 if encodes else len(pair.inputs)) for pair in pairs]
        _require_room(restored, lengths, first)
        for pair, log_p in zip(pairs, score.each_token(restored.state, pairs), strict=True):
            yield {
                "log_probability": float(log_p.sum(dtype=np.float64)),
                "tokens": [str(vocabulary.decode([int(i)])) for i in pair.targets],
                "token_log_probabilities": [float(p) for p in log_p],
            }

    return scored


def _embedder(restored: Restored, options: InferenceOptions) -> Answer:
    embed, vocabulary = Embedder(restored.program), restored.vocabulary()

    def embedded(records: Sequence[Answered], first: int) -> Iterator[Answered]:
        ids = [np.array(vocabulary.encode(record["prompt"]), np.int32) for record in records]
        _require_room(restored, [len(each) for each in ids], first)
        return ({"embedding": [float(x) for x in row]} for row in embed(restored.state, ids))

    return embedded


def _require_room(restored: Restored, lengths: Sequence[int], first: int) -> None:
    most = restored.program.architecture.max_length
    for number, length in enumerate(lengths, first + 1):
        if length > most:
            raise UserError(f"record {number} has {length} tokens, and the model reads {most}; shorten it")
