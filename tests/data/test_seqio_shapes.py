"""SeqIO's tasks in shapes that users' registries hold, in a process of its own: TensorFlow stays out of other tests."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import json, sys

sys.path.insert(0, sys.argv[1])

from t5x_like.data.id_bounds import bounded
from t5x_like.data.pipeline import Pipeline
from t5x_like.data.seqio_bridge import SeqioTask
from t5x_like.errors import UserError
from t5x_like.objectives.causal_lm import CausalLM
import seqio_shapes


def batches(mixture, size, streamed, count=40):
    task = SeqioTask(mixture=mixture)
    try:
        corpus = bounded(task.stream("train") if streamed else task.open("train"), size, task)
        shape = {"sequence_length": 16, "batch_size": 4, "lanes": 2, "seed": 0, "shuffle_window": 8}
        pipeline = Pipeline(corpus, CausalLM(), vocab_size=size, **shape)
        try:
            return sum(next(pipeline).counts.tokens for _ in range(count))
        finally:
            pipeline.close()
    except UserError as error:
        return str(error)


found = {"ids": {}}
for name, size in [("big_ids", 300), ("big_ids", 1000), ("negative", 900), ("passthrough", 93), ("passthrough", 92),
                   ("wide", 259)]:
    found["ids"][f"{name} {size}"] = [batches(name, size, streamed) for streamed in (False, True)]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found():
    here = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", PROGRAM, here], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_ids_beyond_the_model_are_refused_by_index_and_streamed(found):
    sentence = "and the model's ids are at least 0 and below {}; give the vocabulary that made it, or raise model.vocab"
    indexed, streamed = found["ids"]["big_ids 300"]
    assert indexed.startswith(
        f"data.task: feature 'targets' of record 5 of big_ids has the id 300, {sentence.format(300)}"
    )
    assert streamed.startswith("data.task: feature 'targets' of record 5 of big_ids has the id 300, and the model's")
    for message in found["ids"]["passthrough 92"]:
        assert "of passthrough has the id 92, " + sentence.format(92) in message


def test_ids_below_0_are_refused_as_they_are_read(found):
    for message in found["ids"]["negative 900"]:
        assert message == (
            "data.task.feature: 'targets' of record 0 of 'negative' has the id -5, and its vocabulary's ids are at"
            " least 0 and below 900; mend the task, or the vocabulary of its feature"
        )


def test_ids_that_the_model_has_are_read(found):
    for name in ("big_ids 1000", "passthrough 93", "wide 259"):
        assert all(isinstance(tokens, int) and tokens > 2000 for tokens in found["ids"][name]), found["ids"][name]
