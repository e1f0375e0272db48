"""Rollouts: batches of answers that the model in training writes, with advantages within each prompt's group.

Shapes: b rows, t length.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from t5x_like import registry
from t5x_like.checks import require_at_least, require_positive
from t5x_like.data.batches import BatchCounts, BatchSource, Feed, PreparedBatch
from t5x_like.data.sources import read_bytes
from t5x_like.errors import ExperimentError, UserError
from t5x_like.experiment import Experiment
from t5x_like.inference.sampling import Sampling, row_keys
from t5x_like.inference.text import TextGenerator
from t5x_like.objectives.preferences import token_log_likelihoods
from t5x_like.program import State, purpose_key

# Takes a record and the answer to its prompt.
RewardFunction = Callable[[Mapping[str, Any], str], float]


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """Options.

    Attributes:
      prompts: JSON lines, each an object with the field `prompt`; the reward sees the whole object.
      reward: `module:function`, from a record and an answer to a number; give the module with `--module`.
      group: answers to a prompt, which are compared with each other.
      tokens: of an answer at most.
      temperature: of the answers.
      scaled: whether advantages are divided by the standard deviation of their group (Shao et al. 2024), or not (Liu et
        al. 2025, section 3.2).
    """

    name: str = "rollouts"
    prompts: str = ""
    reward: str = ""
    group: int = 8
    tokens: int = 32
    temperature: float = 1.0
    scaled: bool = True

    def __post_init__(self) -> None:
        require_positive(self, "group", "tokens")
        require_at_least(self, 2, "group")
        if ":" not in self.reward:
            raise ExperimentError("reward", f"{self.reward!r} is no function; give module:function")

    def open(self, experiment: Experiment) -> "OpenRollouts":
        """Reads the prompts and finds the reward.

        Raises:
          ExperimentError: where there are none, the batch is no whole number of groups, or there is no such function.
        """
        rows = experiment.data.batch_size
        if rows % self.group:
            raise ExperimentError("data.batch_size", f"{rows} rows are no whole number of groups of {self.group}")
        content = read_bytes(self.prompts, "data.source.prompts")
        try:
            records = [json.loads(line) for line in content.split(b"\n") if line.strip()]
            assert records and all(isinstance(record["prompt"], str) for record in records)
        except (ValueError, KeyError, TypeError, AssertionError):
            raise ExperimentError(
                "data.source.prompts", f"{self.prompts} has a line without a prompt; give objects with the field prompt"
            ) from None
        try:
            reward = registry.imported(self.reward)
        except (ImportError, AttributeError) as error:
            raise ExperimentError("data.source.reward", f"there is no {self.reward} ({error})") from None
        return OpenRollouts(self, experiment, records, reward, content)


class OpenRollouts:
    """Prompts and reward, found."""

    def __init__(
        self, options: Rollouts, experiment: Experiment, records: list[Any], reward: RewardFunction, content: bytes
    ) -> None:
        """Takes what was read."""
        self._options, self._experiment, self._records, self._reward = options, experiment, records, reward
        self.fingerprint = {"data.source.prompts": hashlib.sha256(content).hexdigest()}

    def start(self, feed: Feed) -> "RolloutBatches":
        """The batches from a place on."""
        if feed.host_count > 1:
            raise ExperimentError("data.source", "rollouts are written by one process; use one host")
        return RolloutBatches(self._options, self._experiment, self._records, self._reward, feed)


class RolloutBatches(BatchSource):
    """Batches that are written by the model of the step before; the same in every run, restarted or not."""

    def __init__(
        self,
        options: Rollouts,
        experiment: Experiment,
        records: list[Any],
        reward: RewardFunction,
        feed: Feed,
    ) -> None:
        """Compiles nothing yet."""
        self._options, self._data, self._seed = options, experiment.data, experiment.seed
        self._records, self._reward, self._program = records, reward, feed.program
        self._generate = TextGenerator(feed.program, experiment.data.task.vocabulary())
        self._done = 0 if feed.position is None else int(feed.position[0, 0])
        self._state: State | None = None
        self._log_p = jax.jit(self._log_likelihoods)

    def observe(self, step: int, state: State) -> None:
        """See `BatchSource.observe`."""
        self._state = state

    def __next__(self) -> PreparedBatch:
        """See `BatchSource`.

        Raises:
          UserError: where the reward raises, with the record's number.
        """
        assert self._state is not None  # the loop shows the state before it asks for a batch
        o, rows, engine = self._options, self._data.batch_size, self._generate.engine
        numbers = self._drawn(rows // o.group)
        chosen = [self._records[number] for number in numbers for _ in range(o.group)]
        prompts = [list(self._generate.vocabulary.encode(record["prompt"])) for record in chosen]
        key = jax.random.fold_in(purpose_key(self._seed, "sample"), self._done)
        read = [self._generate.read(prompt) for prompt in prompts]
        engine.require_room(read, o.tokens)
        written = engine.write(
            engine.load(self._state), read, tokens=o.tokens, sampling=Sampling(o.temperature), keys=row_keys(key, rows)
        )
        texts = [self._generate.text(prompt, ids) for prompt, ids in zip(prompts, written, strict=True)]
        rewards = np.array(
            [self._rewarded(chosen[i], text, numbers[i // o.group]) for i, text in enumerate(texts)], np.float32
        )
        batch = self._laid_out(read, written)
        batch["log_p"] = np.asarray(self._log_p(self._state, batch["inputs"], batch["targets"])) * batch["answer"]
        batch["reward"] = rewards
        batch["advantage"] = advantages(rewards, o.group, scaled=o.scaled)
        self._done += 1
        tokens = int(batch["answer"].sum())
        counts = BatchCounts(rows * self._data.sequence_length, tokens, 0, 0.0, self._done * rows)
        return PreparedBatch(batch, np.array([[self._done]], np.uint64), counts)

    def _drawn(self, count: int) -> list[int]:
        """The numbers of the next prompts: each once an epoch, in an order of its own."""
        found = []
        for place in range(self._done * count, (self._done + 1) * count):
            epoch, index = divmod(place, len(self._records))
            found.append(int(np.random.default_rng((self._seed, epoch)).permutation(len(self._records))[index]))
        return found

    def _rewarded(self, record: Mapping[str, Any], text: str, number: int) -> float:
        try:
            return float(self._reward(record, text))
        except Exception as error:
            raise UserError(
                f"data.source.reward: {self._options.reward} raised {type(error).__name__} ({error}) for the answer"
                f" {text[:40]!r} to prompt {number + 1}; it must give a number for any text"
            ) from error

    def _laid_out(self, read: list[np.ndarray], written: list[np.ndarray]) -> dict[str, np.ndarray]:
        rows, length = len(read), self._data.sequence_length
        batch: dict[str, np.ndarray] = {name: np.zeros((rows, length), np.int32) for name in ("inputs", "targets")}
        batch["answer"] = np.zeros((rows, length), np.float32)
        for row, (prompt, answer) in enumerate(zip(read, written, strict=True)):
            whole = np.concatenate([prompt, answer])
            if len(whole) - 1 > length:
                raise ExperimentError("data.sequence_length", f"{length} is too short for {len(whole) - 1} tokens")
            batch["inputs"][row, : len(whole) - 1], batch["targets"][row, : len(whole) - 1] = whole[:-1], whole[1:]
            batch["answer"][row, len(prompt) - 1 : len(whole) - 1] = 1
        batch["row"] = np.arange(rows, dtype=np.int32)
        return batch

    def _log_likelihoods(self, state: State, inputs_bt: jax.Array, targets_bt: jax.Array) -> jax.Array:
        with self._program.layout.use():
            return token_log_likelihoods(self._program.inference_model(state), inputs_bt, targets_bt, None)

    def close(self) -> None:
        """See `BatchSource`."""


def advantages(rewards_b: np.ndarray, group: int, *, scaled: bool) -> np.ndarray:
    """How much better each answer is than the others of its group, float32 [rows].

    Args:
      rewards_b: float32 [rows], groups one after the other.
      group: rows of a group.
      scaled: whether to divide by the group's standard deviation.
    """
    rewards_ng = rewards_b.reshape(-1, group)
    gain_ng = rewards_ng - rewards_ng.mean(1, keepdims=True)
    if scaled:
        gain_ng = gain_ng / (rewards_ng.std(1, keepdims=True) + 1e-4)
    return gain_ng.reshape(-1).astype(np.float32)
