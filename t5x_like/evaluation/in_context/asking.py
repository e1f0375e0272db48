"""A task asked of a model: log-likelihoods of options, written answers, or the likelihood of texts."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from t5x_like.errors import UserError
from t5x_like.evaluation.in_context.metrics import BootstrapMean, bootstrap, exact_match, f1
from t5x_like.evaluation.in_context.questions import Asker, Question
from t5x_like.evaluation.in_context.task import OpenTask
from t5x_like.evaluation.restored import Restored
from t5x_like.inference.sampling import GREEDY
from t5x_like.inference.scoring import Scored, scored_pair


class Examiner:
    """Asks tasks of one model; what it compiles serves all of them."""

    def __init__(self, restored: Restored) -> None:
        """Takes a checkpoint's model."""
        self._restored, self._vocabulary = restored, restored.vocabulary()
        self._score = restored.scorer()
        architecture = restored.program.architecture
        self._encodes, self._longest = "encoder" in architecture.stacks, architecture.max_length

    def ask(self, task: OpenTask, *, shots: int, seeds: Sequence[int], limit: int = 0) -> dict[str, BootstrapMean]:
        """Each metric of a task, over its questions; a question's value is the mean over the seeds.

        Raises:
          UserError: where a prompt is longer than the model reads, or the task does not suit it.
        """
        asker = Asker(task)
        if task.options.kind == "likelihood":
            return self._likelihood(asker, limit)
        found: dict[str, list[list[float]]] = {}
        for seed in seeds if shots else seeds[:1]:
            questions = asker.questions(shots, seed, limit)
            values = self._pick(asker, questions) if task.options.kind == "options" else self._write(task, questions)
            for name, each in values.items():
                found.setdefault(name, []).append(each)
        return {name: bootstrap(np.mean(values, axis=0).tolist()) for name, values in found.items()}

    def _pick(self, asker: Asker, questions: Sequence[Question]) -> dict[str, list[float]]:
        """Whether the right option is the likeliest: raw, by length in bytes, and over its own likelihood."""
        o = asker.task.options
        pairs = [(q.prompt, o.separator + option) for q in questions for option in q.answers]
        alone = sorted({(o.unconditional, o.separator + option) for q in questions for option in q.answers})
        log_p = self.log_likelihoods(pairs)
        own = dict(zip(alone, self.log_likelihoods(alone), strict=True))
        right: dict[str, list[float]] = {"accuracy": [], "accuracy_by_length": [], "accuracy_pmi": []}
        place = 0
        for question in questions:
            texts = [o.separator + option for option in question.answers]
            scores = np.array(log_p[place : place + len(texts)])
            place += len(texts)
            ways = {
                "accuracy": scores,
                "accuracy_by_length": scores / [max(1, len(text.encode())) for text in texts],
                "accuracy_pmi": scores - [own[o.unconditional, text] for text in texts],
            }
            for name, values in ways.items():
                right[name].append(float(int(values.argmax()) == question.right))
        return {**right, "chance": [1 / len(question.answers) for question in questions]}

    def log_likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """The log p of continuations after their contexts, in nats.

        Raises:
          UserError: for a pair that is longer than the model reads.
        """
        scored = [scored_pair(self._vocabulary, *pair, encodes=self._encodes) for pair in pairs]
        for (context, _), each in zip(pairs, scored, strict=True):
            length = len(each.targets) if self._encodes else len(each.inputs) + len(each.targets)
            self._require_room(length, context)
        return self._score(self._restored.state, scored)

    def _write(self, task: OpenTask, questions: Sequence[Question]) -> dict[str, list[float]]:
        o, generate = task.options, self._restored.text_generator()
        texts = generate(
            self._restored.state,
            [question.prompt for question in questions],
            tokens=o.tokens,
            sampling=GREEDY,
            key=jax.random.key(0),
            stops=o.stop,
        )
        pairs = list(zip(texts, (question.answers for question in questions), strict=True))
        return {"exact_match": [exact_match(*pair) for pair in pairs], "f1": [f1(*pair) for pair in pairs]}

    def _likelihood(self, asker: Asker, limit: int) -> dict[str, BootstrapMean]:
        """Perplexity a token and bits a byte, each token seen with at most `context` - 1 before it."""
        o = asker.task.options
        context = min(o.context or self._longest, self._longest)
        stride = o.stride or context
        if self._encodes:
            raise UserError(f"task {o.name}: a model with an encoder gives texts no likelihood of their own")
        records = asker.task.records[:limit] if limit else asker.task.records
        texts = [asker.text(record, number) for number, record in enumerate(records)]
        ids = [np.array(self._vocabulary.encode(text), np.int32) for text in texts]
        windows, owners = [], []
        for number, each in enumerate(ids):
            for given, targets in windows_of(each, context, stride):
                windows.append(Scored(given, targets))
                owners.append(number)
        nats = np.zeros(len(texts))
        np.add.at(nats, owners, [-score for score in self._score(self._restored.state, windows)])
        tokens, size = np.array([len(each) for each in ids]), np.array([len(text.encode()) for text in texts])
        return {
            "perplexity": _ratio(nats, tokens, math.exp),
            "bits_per_byte": _ratio(nats, size, lambda value: value / math.log(2)),
        }

    def _require_room(self, length: int, prompt: str) -> None:
        if length > self._longest:
            shown = prompt[:40].replace("\n", " ")
            raise UserError(
                f"the prompt {shown!r}… has {length} tokens with its answer, and the model reads {self._longest}; ask"
                " with fewer examples"
            )


def windows_of(ids: np.ndarray, context: int, stride: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """A text in windows that predict each token once: what is given, and what is predicted from it.

    Args:
      ids: int32 [n].
      context: tokens of a window.
      stride: tokens that a window predicts, but the first, which predicts all of its own.
    """
    found, done = [], 0
    while done < len(ids):
        last = min(len(ids), context if not done else done + stride)
        first = max(0, last - context)
        found.append((ids[first:done], ids[done:last]))
        done = last
    return found


def _ratio(nats: np.ndarray, weights: np.ndarray, shown: Any) -> BootstrapMean:
    """A function of Σ nats / Σ weights, with bootstrap errors over texts."""
    random = np.random.default_rng(0)
    draws = random.integers(0, len(nats), (1000, len(nats)))
    values = np.array([shown(n / max(1, w)) for n, w in zip(nats[draws].sum(1), weights[draws].sum(1), strict=True)])
    low, high = np.quantile(values, (0.025, 0.975))
    return BootstrapMean(shown(nats.sum() / max(1, weights.sum())), float(values.std()), float(low), float(high))
