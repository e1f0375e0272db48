"""A family here, on the rows and weights of a case."""

import jax
import jax.numpy as jnp
import numpy as np
import tiny
from flax import nnx
from models.families import cases

from t5x_like import variables
from t5x_like.models.hugging_face import read_model


class Family:
    """A model of a `config.json` with the weights of `cases.weights`, by way of its names."""

    def __init__(self, config):
        self.options = read_model(config)
        self.structure, tree = variables.abstract(lambda: self.options.build(nnx.Rngs(0)))
        self.shapes = {".".join(path): leaf.shape for path, leaf in variables.flatten(tree).items()}
        self.tensors = {tensor.key: tensor for tensor in self.options.names().tensors(self.shapes)}
        flat = {path: np.empty(shape, np.float32) for path, shape in self.shapes.items()}
        for tensor in self.tensors.values():
            self.place(tensor, cases.weights(tensor.key, tensor.shape), flat)
        self.tree = variables.unflatten({tuple(path.split(".")): leaf for path, leaf in flat.items()})

    @staticmethod
    def place(tensor, array, flat):
        """Puts a tensor where its parts are here."""
        for part, value in zip(tensor.parts, tensor.ours(array), strict=True):
            flat[part.path][part.index] = value

    def theirs(self, tree, key):
        """What a tree here has for a tensor there."""
        flat = {".".join(path): leaf for path, leaf in variables.flatten(tree).items()}
        tensor = self.tensors[key]
        return tensor.theirs(np.asarray(flat[part.path][part.index]) for part in tensor.parts)

    def summary(self, case):
        """Logits, loss and gradients, with the first row alone in one and the other two packed into the next."""
        lengths, rows = cases.rows(case)
        packed = {name: _packed(array, self._lengths(array, lengths)) for name, array in rows.items()}

        def loss(tree):
            model = self.structure.merge(tree)
            logits = self._logits(model, packed)
            tokens, real = packed["targets"][0], packed["targets"][1] > 0
            log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.asarray(tokens)[..., None], -1)[..., 0]
            return -jnp.where(real, log_p, 0).sum() / real.sum(), logits

        run = jax.jit(jax.value_and_grad(loss, has_aux=True))
        (loss_, logits), gradients = jax.device_get(tiny.compiled(run, self.tree)(self.tree))
        first, second, third = lengths
        each = [logits[0, :first], logits[1, :second], logits[1, second : second + third]]
        embedding = gradients["tokens"]["table"]
        return cases.summary(each, loss_, embedding, self.theirs(gradients, case["middle"]), lengths)

    def logits(self, case):
        """Logits [length, classes] of each row, of packed rows as in `summary`."""
        lengths, rows = cases.rows(case)
        packed = {name: _packed(array, self._lengths(array, lengths)) for name, array in rows.items()}
        run = jax.jit(lambda tree: self._logits(self.structure.merge(tree), packed))
        logits = jax.device_get(tiny.compiled(run, self.tree)(self.tree))
        first, second, third = lengths
        return [logits[0, :first], logits[1, :second], logits[1, second : second + third]]

    def from_caches(self, case):
        """Logits [1, length, vocabulary] of the first row, read in three calls, each with caches of those before."""
        lengths, rows = cases.rows(case)
        tokens = rows["tokens"][:1]

        def run(tree):
            model = self.structure.merge(tree)
            cache = model.empty_cache(1, lengths[0]) if "inputs" not in rows else self._encoded(model, rows, lengths[0])
            parts, slot = [], 0
            for width in (lengths[0] - 4, 1, 3):
                logits, cache = model.decode(tokens[:, slot : slot + width], cache, jnp.int32(slot))
                parts.append(logits)
                slot += width
            return jnp.concatenate(parts, 1)

        return jax.device_get(tiny.compiled(jax.jit(run), self.tree)(self.tree))

    def _logits(self, model, packed):
        """As `golden_families._scores` has them."""
        states = self._states(model, packed)
        logits = model.logits(model.finish(states))
        if logits.shape[-1] == 1:
            return jnp.concatenate([jnp.zeros_like(logits), logits], -1)
        if model.pooler is None:
            return logits
        positions = packed["tokens"][2]
        first = np.arange(positions.shape[1]) - positions
        pairs = jnp.take_along_axis(model.pooler.scores(states), first[..., None], 1)
        return jnp.concatenate([logits, pairs], -1)

    def _states(self, model, packed):
        tokens, segments, positions = packed["tokens"]
        types = {"types_bt": packed["types"][0]} if "types" in packed else {}
        encoded = {}
        if "inputs" in packed:
            inputs, input_segments, input_positions = packed["inputs"]
            encoded["encoded"] = model.encode(inputs, positions_bs=input_positions, segment_ids_bs=input_segments)
        return model.states(tokens, positions_bt=positions, segment_ids_bt=segments, **types, **encoded)

    def _encoded(self, model, rows, slots):
        inputs = rows["inputs"][:1]
        positions = np.arange(inputs.shape[1])[None]
        encoded = model.encode(inputs, positions_bs=positions, segment_ids_bs=np.ones_like(inputs))
        return model.encoded_cache(encoded, slots)

    @staticmethod
    def _lengths(array, lengths):
        scale = array.shape[1] / lengths[0]
        return lengths if scale == 1 else [max(3, 2 * each // 3) for each in lengths]


def _packed(array, lengths):
    """Values, segments and positions, each [2, n]: the first row alone, then the two others, both with padding."""
    first, second, third = lengths
    values, segments, positions = np.zeros((3, 2, max(first, second + third) + 3), np.int32)
    for row, start, number, length in ((0, 0, 0, first), (1, 0, 1, second), (1, second, 2, third)):
        at = (row, slice(start, start + length))
        values[at], positions[at], segments[at] = array[number, :length], np.arange(length), 1 + (start > 0)
    return values, segments, positions
