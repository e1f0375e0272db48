"""Questions of a task as prompts, with examples in front that are drawn for each question."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from t5x_like.errors import UserError
from t5x_like.evaluation.in_context.task import OpenTask, TaskRecord


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
      prompt: all that stands before the answer.
      answers: the right ones; of options, their texts in order.
      right: of options, the number of the right one; -1 for other kinds.
    """

    prompt: str
    answers: tuple[str, ...]
    right: int = -1


class Asker:
    """The questions of a task."""

    def __init__(self, task: OpenTask) -> None:
        """Compiles the template.

        Raises:
          UserError: for a template that is no Jinja.
        """
        from jinja2 import StrictUndefined, TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        self.task = task
        environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
        try:
            self._template = environment.from_string(task.options.template)
        except TemplateError as error:
            raise UserError(f"task {task.options.name}: template is no Jinja ({error})") from None

    def text(self, record: TaskRecord, number: int) -> str:
        """The template with a record's fields.

        Raises:
          UserError: with the record's number from 1, where the template fails on it.
        """
        try:
            return self._template.render(**record)
        except Exception as error:  # whatever a template and a record's values make of each other
            raise self._wrong(number, f"does not suit the template ({error})") from None

    def questions(self, shots: int, seed: int, limit: int = 0) -> list[Question]:
        """The questions in order, each with examples of its own.

        Args:
          shots: examples in front of each.
          seed: of the draw; a question's examples hang on it and on the question's number.
          limit: how many questions, from the first; 0 is all.

        Raises:
          UserError: where there are not as many examples, or a record has not what the task needs.
        """
        records = self.task.records[:limit] if limit else self.task.records
        return [self._question(record, number, shots, seed) for number, record in enumerate(records)]

    def _question(self, record: TaskRecord, number: int, shots: int, seed: int) -> Question:
        o = self.task.options
        drawn = self._examples(number, shots, seed)
        parts = [self.text(example, place) + o.separator + self._right_text(example, place) for example, place in drawn]
        prompt = o.between.join([*parts, self.text(record, number)])
        prompt = f"{o.description}{o.between}{prompt}" if o.description else prompt
        if o.kind != "options":
            return Question(prompt, self._answers(record, number))
        options = self.options(record, number)
        return Question(prompt, options, self._right(record, number, options))

    def _examples(self, number: int, shots: int, seed: int) -> list[tuple[TaskRecord, int]]:
        pool = self.task.pool
        others = [i for i in range(len(pool)) if not (self.task.own_pool and i == number)]
        if shots > len(others):
            raise UserError(
                f"task {self.task.options.name}: {shots} examples are asked for, and there are {len(others)}; ask for"
                " fewer, or give it more records or a file of examples"
            )
        chosen = np.random.default_rng((seed, number)).choice(len(others), shots, replace=False) if shots else ()
        return [(pool[others[i]], others[i]) for i in chosen]

    def options(self, record: TaskRecord, number: int) -> tuple[str, ...]:
        """The options of a record."""
        named = self.task.options.options
        given: Any = record.get(named) if isinstance(named, str) else named
        if not isinstance(given, Sequence) or isinstance(given, str) or len(given) < 2:
            raise self._wrong(number, f"has no list of options in the field {named!r}")
        return tuple(map(str, given))

    def _right(self, record: TaskRecord, number: int, options: tuple[str, ...]) -> int:
        answer = self._field(record, number)
        if isinstance(answer, str) and answer in options:
            return options.index(answer)
        if str(answer).isdigit() and int(answer) < len(options):
            return int(answer)
        raise self._wrong(number, f"has the answer {answer!r}, which is none of its options")

    def _answers(self, record: TaskRecord, number: int) -> tuple[str, ...]:
        if self.task.options.kind == "likelihood":
            return ()
        answer = self._field(record, number)
        return tuple(map(str, answer)) if isinstance(answer, list | tuple) else (str(answer),)

    def _right_text(self, record: TaskRecord, number: int) -> str:
        if self.task.options.kind == "options":
            options = self.options(record, number)
            return options[self._right(record, number, options)]
        return next(iter(self._answers(record, number)), "")

    def _field(self, record: TaskRecord, number: int) -> Any:
        field = self.task.options.answer
        if field not in record:
            raise self._wrong(number, f"has no field {field!r}")
        return record[field]

    def _wrong(self, number: int, problem: str) -> UserError:
        return UserError(f"task {self.task.options.name}: record {number + 1} {problem}")
