r"""A task of in-context evaluation: a small TOML file beside its records.

name = "capitals"
records = "capitals.jsonl"
template = "Question: What is the capital of {{ country }}?\nAnswer:"
kind = "options"
options = "choices"
answer = "capital"
"""

import csv
import io
import json
import pathlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from t5x_like.checks import require_at_least, require_one_of, require_positive
from t5x_like.data.sources import read_bytes
from t5x_like.errors import ExperimentError, UserError
from t5x_like.sections import section

TaskRecord = Mapping[str, Any]
KINDS = ("options", "text", "likelihood")


@dataclass(frozen=True, kw_only=True)
class InContextTask:
    """The fields of the file.

    Attributes:
      name: of the task.
      records: JSON lines, or a table with tabs and a head (`.tsv`), beside the file.
      kind: `options` picks the likeliest of the record's options; `text` compares what the model writes with the
        answers; `likelihood` measures how well the record's text is predicted.
      template: a question, or with `likelihood` the text, in Jinja over the fields of a record.
      description: stands in front of everything.
      options: with `options`, the field that lists them; or a list of texts that all records share.
      answer: the field with the right one: its text, its number from 0, or with `text` a list of right answers.
      separator: between a question and its answer.
      unconditional: with `options`, what the options stand behind when their own likelihood is measured (PMI, Holtzman
        et al. 2021).
      examples: a file with the records that examples are taken from; by default the records, but the one that is asked.
      between: stands between examples.
      stop: with `text`, texts that end an answer.
      tokens: with `text`, how many tokens an answer has at most.
      context: with `likelihood`, tokens of a window; 0 is the model's length.
      stride: with `likelihood`, tokens between the begins of two windows; 0 is `context`.
    """

    name: str
    records: str
    kind: str = "options"
    template: str
    description: str = ""
    options: str | tuple[str, ...] = "options"
    answer: str = "answer"
    separator: str = " "
    unconditional: str = "Answer:"
    examples: str = ""
    between: str = "\n\n"
    stop: tuple[str, ...] = ("\n",)
    tokens: int = 32
    context: int = 0
    stride: int = 0

    def __post_init__(self) -> None:
        require_one_of(self, "kind", KINDS)
        require_positive(self, "tokens")
        require_at_least(self, 0, "context", "stride")
        if self.context and self.stride > self.context:
            raise ExperimentError("stride", f"{self.stride} tokens would leave some out; it is at most context")


@dataclass(frozen=True)
class OpenTask:
    """A task with its records.

    Attributes:
      options: of the file.
      records: that are asked.
      pool: that examples are taken from.
      own_pool: whether those are the records themselves.
    """

    options: InContextTask
    records: tuple[TaskRecord, ...]
    pool: tuple[TaskRecord, ...]
    own_pool: bool


def open_task(path: str) -> OpenTask:
    """The task in a file.

    Raises:
      UserError: where the file, or that of its records, is no such file, at its field.
    """
    try:
        values = tomllib.loads(read_bytes(path, "--task").decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"--task: {path} is no TOML ({error})") from None
    try:
        options: InContextTask = section(InContextTask, values, "")
    except ExperimentError as error:
        raise UserError(f"--task: {path}: {error}") from None
    folder = pathlib.PurePath(path).parent
    records = _records(str(folder / options.records), "records")
    own = not options.examples
    return OpenTask(options, records, records if own else _records(str(folder / options.examples), "examples"), own)


def _records(path: str, field: str) -> tuple[TaskRecord, ...]:
    try:
        text = read_bytes(path, f"--task: {field}").decode("utf-8-sig")
        if path.endswith(".tsv"):
            return tuple(csv.DictReader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE))
        found = tuple(json.loads(line) for line in text.split("\n") if line.strip())
    except ValueError as error:
        raise UserError(f"--task: {field}: {path} is no JSON lines ({error})") from None
    if not found or not all(isinstance(record, dict) for record in found):
        raise UserError(f"--task: {field}: {path} has no records; give an object a line")
    return found
