"""A batch source of one's own: it samples what the model is trained on from the model that is trained."""

import json

import pytest
from runs import TINY, committed, exact, same_bits

MODULE = '''
import dataclasses, functools, json
import jax, jax.numpy as jnp, numpy as np
from t5x_like import registry
from t5x_like.data.batches import BatchCounts, BatchSource, PreparedBatch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Samples:
    name: str = "samples"
    log: str = ""

    def open(self, experiment):
        return Opened(self, experiment)


class Opened:
    def __init__(self, options, experiment):
        self.options, self.experiment = options, experiment
        self.fingerprint = {"data.source": "samples"}

    def start(self, feed):
        return Sampler(self.options, self.experiment, feed)


class Sampler(BatchSource):
    """Every row is a start, and what the model samples at each of the following places."""

    def __init__(self, options, experiment, feed):
        self.data, self.seed, self.feed, self.log = experiment.data, experiment.seed, feed, options.log
        self.done = 0 if feed.position is None else int(feed.position[0, 0])
        self.state, self.closed = None, False

    def observe(self, step, state):
        assert step == self.done == int(state["step"])
        self.state = state

    def __next__(self):
        assert not self.closed
        rows, length = self.data.batch_size, self.data.sequence_length
        ids = np.zeros((rows, length + 1), np.int32)
        ids[:, 0] = np.arange(rows) + 5
        key = jax.random.fold_in(jax.random.key(self.seed), self.done)
        ids = np.asarray(self.sampled(self.state, jnp.asarray(ids), key))
        total = sum(float(jnp.abs(leaf).sum()) for leaf in jax.tree.leaves(self.state["parameters"]))
        with open(self.log, "a") as log:
            log.write(json.dumps([self.done, total, ids[:, 1].tolist()]) + "\\n")
        self.done += 1
        batch = {
            "inputs": ids[:, :-1], "targets": ids[:, 1:],
            "segment_ids": np.ones((rows, length), np.int32),
            "positions": np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
            "row": np.arange(rows, dtype=np.int32),
        }
        counts = BatchCounts(rows * length, rows * length, 0, 0.0, self.done * rows)
        return PreparedBatch(batch, np.array([[self.done]], np.uint64), counts)

    @functools.cached_property
    def sampled(self):
        @jax.jit
        def sample(state, ids, key):
            model = self.feed.program.model(state)

            def write(place, ids):
                positions = jnp.broadcast_to(jnp.arange(ids.shape[1] - 1), ids[:, 1:].shape)
                hidden = model(ids[:, :-1], positions_bt=positions, segment_ids_bt=jnp.ones_like(positions))
                logits = model.logits(hidden)[:, place]
                drawn = jax.random.categorical(jax.random.fold_in(key, place), logits)
                return ids.at[:, place + 1].set(drawn.astype(ids.dtype))

            return jax.lax.fori_loop(0, ids.shape[1] - 1, write, ids)
        return sample

    def close(self):
        self.closed = True


registry.register("batch_source", "samples", "my_samples:Samples")
'''


@pytest.fixture
def train(tmp_path, program):
    (tmp_path / "my_samples.py").write_text(MODULE)

    def run(workdir, steps):
        log = tmp_path / f"{workdir.name}.jsonl"
        program.run(
            "train", *TINY, f"--workdir={workdir}", "--module=my_samples.py", "--config.data.source.name=samples",
            f"--config.data.source.log={log}", "--config.data.sequence_length=8", "--config.evaluators={}",
            "--config.checkpoint.best_metric=",
            "--config.checkpoint.every=3", f"--config.steps={steps}", "--config.optimizer.schedule=constant",
        )  # fmt: skip
        return [json.loads(line) for line in log.read_text().splitlines()]

    return run


def test_a_source_samples_from_the_model_it_trains_and_goes_on_exactly(train, tmp_path):
    whole = train(tmp_path / "whole", 6)
    assert [step for step, _, _ in whole] == list(range(6))
    totals, rows = [total for _, total, _ in whole], [tuple(drawn) for _, _, drawn in whole]
    assert len(set(totals)) == 6, "the source saw the same parameters twice"
    assert len(set(rows)) == 6
    # A run of three steps, and one that goes on from there: a constant schedule does not look at the last step.
    first = train(tmp_path / "parts", 3)
    both = train(tmp_path / "parts", 6)
    assert first == whole[:3] and both == whole
    same_bits(committed(tmp_path / "parts", 6), committed(tmp_path / "whole", 6))
    assert [line["data/examples"] for line in exact(tmp_path / "whole")] == [4 * (step + 1) for step in range(6)]
