"""A component of a mixture that holds nothing is refused in the same words, by index and streamed, ours and SeqIO's."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from t5x_like.data.dataset import Component, Dataset, MixtureStage
from t5x_like.data.documents import Documents
from t5x_like.data.pipeline import Pipeline
from t5x_like.data.streaming import StreamedComponent, StreamedDataset
from t5x_like.errors import ExperimentError
from t5x_like.objectives.causal_lm import CausalLM

SENTENCE = "data.task: component 'empty' has no document in the split; leave it out, or set its rate to 0"
SHAPE = {"sequence_length": 8, "batch_size": 4, "lanes": 4, "seed": 0, "shuffle_window": 4}


class Shard:
    def __init__(self, documents):
        self.documents = documents

    def records(self, start=0):
        return itertools.islice(enumerate(self.documents), start, None)


def dataset(streamed, weights):
    full = [np.arange(5, 12) for _ in range(20)]
    parts = {"full": full, "empty": []}
    stages = (MixtureStage(0, weights),)
    if streamed:
        dtype = np.dtype(np.uint16)
        return StreamedDataset(
            tuple(
                StreamedComponent(name, (Shard(documents),), lambda shard, record: True, list, dtype)
                for name, documents in parts.items()
            ),
            stages,
        )
    components = (
        Component.of(name, Documents.collect(((tokens, 1) for tokens in documents), np.dtype(np.uint16)))
        for name, documents in parts.items()
    )
    return Dataset(tuple(components), stages)


def read(streamed, weights):
    pipeline = Pipeline(dataset(streamed, weights), CausalLM(), **SHAPE)
    try:
        return [next(pipeline).counts.tokens for _ in range(20)]
    finally:
        pipeline.close()


@pytest.mark.parametrize("streamed", [False, True], ids=["indexed", "streamed"])
def test_it_is_refused_unless_it_is_left_out(streamed):
    with pytest.raises(ExperimentError) as error:
        read(streamed, (1.0, 0.5))
    assert str(error.value) == SENTENCE
    assert sum(read(streamed, (1.0, 0.0))) > 400


PROGRAM = """
import contextlib, json, sys
sys.path.insert(0, sys.argv[1])
from t5x_like.data.pipeline import Pipeline
from t5x_like.data.seqio_bridge import SeqioTask
from t5x_like.errors import UserError
from t5x_like.objectives.causal_lm import CausalLM
import seqio_shapes

found, task = [], SeqioTask(mixture="with_empty")
for streamed in (False, True):
    try:
        corpus = task.stream("train") if streamed else task.open("train")
        pipeline = Pipeline(corpus, CausalLM(), sequence_length=16, batch_size=4, lanes=2, seed=0, shuffle_window=8)
        with contextlib.closing(pipeline):
            for _ in range(40):
                next(pipeline)
    except UserError as error:
        found.append(str(error))
print(json.dumps(found))
"""


def test_seqios_are_refused_alike():
    here = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", PROGRAM, here], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == [SENTENCE, SENTENCE]
