"""A small language model to write with, and what it should write, by reading everything again for each token."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import tiny
from flax import nnx

from t5x_like import variables
from t5x_like.inference.engine import Engine
from t5x_like.objectives.causal_lm import CausalLM
from t5x_like.objectives.seq2seq import GivenPairs
from t5x_like.parallel import layout
from t5x_like.program import program

END, LENGTH = 1, 64
T5 = {"vocab_size": 32, "layers": 2, "embed": 16, "heads": 4, "kv_heads": 4, "head_dim": 8, "mlp": 32}


class Letters:
    """A vocabulary of numbers: ids as text with spaces."""

    pad_id, eos_id, unk_id = 0, END, -1

    def __init__(self, size=tiny.VOCABULARY):
        self.size = size

    def encode(self, text):
        return [int(word) for word in text.split()]

    def decode(self, ids):
        return " ".join(str(int(i)) for i in ids if int(i) > END)


@functools.cache
def architecture(kind, dtype="float32"):
    if kind == "decoder":
        return tiny.architecture(max_length=LENGTH, dropout=0.0, init_std=0.5, dtype=dtype)
    options = {**T5, "encoder_layers": 1, "relative_buckets": 8, "max_length": LENGTH, "dtype": dtype}
    return tiny.architecture(family="t5_1_1", gated=True, activation="gelu", **options)


def built(kind, parallelism=None, dtype="float32", **adaptations):
    """The program of a small model; of an encoder-decoder where `kind` is not `decoder`."""
    objective = CausalLM() if kind == "decoder" else GivenPairs()
    experiment = tiny.experiment(objective, model=architecture(kind, dtype), adaptations=adaptations)
    return program(experiment, None if parallelism is None else layout.make(parallelism))


@functools.cache
def initial(kind, seed=3):
    """A state in a host's memory, with values that are far from each other."""
    structure, tree = variables.split(architecture(kind).build(nnx.Rngs(seed)))
    del structure
    if kind != "decoder":
        keys = iter(jax.random.split(jax.random.key(seed), 100))
        tree = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(next(keys), x.shape), tree)
    return {"parameters": jax.device_get(tree), "model_state": {}}


def placed(subject, state):
    """The state on the program's devices."""
    shapes = subject.abstract_state()
    shapes = {name: shapes[name] for name in ("parameters", "model_state")}
    return jax.tree.map(lambda x, shape: jax.device_put(x, shape.sharding), state, shapes)


def engine(subject, pieces=tiny.VOCABULARY, **options):
    return Engine(subject, begin=0, end=END, pieces=pieces, **options)


class Reader:
    """log p of the next token, float64 [vocab], without a cache: the whole sequence is read for each token."""

    def __init__(self, kind, state=None, subject=None):
        subject = subject or built(kind)
        self.encodes = kind != "decoder"
        state = jax.tree.map(jnp.asarray, initial(kind) if state is None else state)

        @jax.jit
        def read(tokens, real, inputs, inputs_real):
            model, memory = subject.model(state), {}
            if self.encodes:
                places = jnp.arange(inputs.shape[1])[None]
                memory["encoded"] = model.encode(inputs, positions_bs=places, segment_ids_bs=inputs_real)
            places = jnp.arange(tokens.shape[1])[None]
            return model.logits(model(tokens, positions_bt=places, segment_ids_bt=real, **memory))

        self._read = read

    def logits(self, prompt, written):
        sequence = [0, *written] if self.encodes else [*prompt, *written]
        tokens, real = self._row(sequence)
        return np.asarray(self._read(tokens, real, *self._row(prompt if self.encodes else [0])))[0, len(sequence) - 1]

    def __call__(self, prompt, written):
        logits = self.logits(prompt, written).astype(np.float64)
        return logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())

    def greedy(self, prompt, tokens):
        written = []
        while len(written) < tokens and written[-1:] != [END]:
            written.append(int(np.argmax(self.logits(prompt, written))))
        return written

    @staticmethod
    def _row(ids):
        row = np.zeros((1, LENGTH), np.int32)
        row[0, : len(ids)] = ids
        return row, (np.arange(LENGTH) < len(ids)).astype(np.int32)[None]
