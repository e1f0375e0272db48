"""Programs small enough to compile in a second or two, and what feeds them."""

import types
from typing import Any

import jax
import numpy as np

from t5x_like import compat, migrations
from t5x_like.experiment import Checkpoint, Data, Experiment, Health, Initialize, Telemetry
from t5x_like.optim.schedules import Constant
from t5x_like.optim.sgd import SGD
from t5x_like.parallel.placement import place
from t5x_like.parallelism import Parallelism
from t5x_like.schema1_model import model_tree
from t5x_like.sections import Choice, choose
from t5x_like.step import compiled_step

# The tests are compile-bound, and want no fast code.
COMPILER = compat.quick_compilation()

ROWS, LENGTH, VOCABULARY = 8, 8, 32


def architecture(**changes: Any) -> Any:
    """A transformer that divides over any mesh of up to eight devices with `tensor` up to four.

    Args:
      **changes: options by the short names of the first schema, such as `heads` and `encoder_layers`.
    """
    return choose(
        Choice("model", "llama", "family"),
        model_tree(
            {
                "vocab_size": VOCABULARY,
                "layers": 2,
                "embed": 16,
                "heads": 4,
                "kv_heads": 4,
                "head_dim": 4,
                "mlp": 32,
                "max_length": 16,
                "gated": False,
                "activation": "relu",
                **changes,
            }
        ),
    )


def from_flat(values: Any) -> Experiment:
    """An experiment from nested plain values whose model has the short names of the first schema."""
    return Experiment.from_dict(migrations.upgrade(values))


def flat(architecture: Any) -> Any:
    """The options of a transformer by the short names that references use, of the first layer of its main stack."""
    main, head = architecture.main, architecture.head
    layer, positions = main.layer, main.positions
    attention, half, norm = layer.attention, layer.feed_forward, layer.norm
    return types.SimpleNamespace(
        vocab_size=architecture.vocab_size,
        embed=architecture.embed,
        layers=main.layers,
        encoder_layers=architecture.encoder.layers if architecture.encoder and architecture.decoder else 0,
        heads=attention.heads,
        kv_heads=attention.kv_heads,
        head_dim=attention.head_dim,
        window=attention.window,
        soft_cap=attention.soft_cap,
        mlp=half.hidden,
        activation=half.activation,
        gated=half.gated,
        experts=getattr(half, "experts", 0),
        experts_per_token=getattr(half, "experts_per_token", 0),
        norm=norm.kind,
        norm_epsilon=norm.epsilon,
        norm_position=norm.position,
        embedding_norm=main.embeddings.norm,
        positions=positions.name,
        rope_theta=getattr(positions, "theta", 0.0),
        relative_buckets=getattr(positions, "buckets", 0),
        relative_distance=getattr(positions, "distance", 0),
        tied_head=head.name == "tied",
        rescaled_head=getattr(head, "rescaled", False),
        head_soft_cap=head.soft_cap,
    )


def experiment(objective: Any, **changes: Any) -> Experiment:
    """An experiment around an objective; no corpus, a tiny model, and an optimizer that keeps the bare gradients.

    After the first step of SGD with momentum its state is the gradient of the loss.
    """
    values: dict[str, Any] = {
        "objective": objective,
        "adaptations": {},
        "model": architecture(),
        "data": Data(task=None, sequence_length=LENGTH, batch_size=ROWS),
        "initialize": Initialize(),
        "optimizer": SGD(schedule=Constant(), learning_rate=0.1, clip_norm=0.0),
        "parallelism": Parallelism(),
        "checkpoint": Checkpoint(),
        "evaluators": {},
        "telemetry": Telemetry(),
        "health": Health(),
    }
    return Experiment(**{**values, **changes})


def compiled(function: Any, *arguments: Any) -> Any:
    """A jitted function compiled for these arguments, quickly."""
    return function.lower(*arguments).compile(compiler_options=COMPILER)


def initial(program: Any) -> Any:
    """The state of step 0 in a host's memory."""
    return jax.device_get(compiled(jax.jit(program.init))())


class Steps:
    """A program's compiled step, fed from a host's memory: no call consumes what it is given."""

    def __init__(self, program: Any, state: Any, batch: Any) -> None:
        """Compiles for states and batches like these."""
        self.program, self._abstract = program, program.abstract_state()
        self._compiled = compiled(compiled_step(program), *self.placed(state, batch))

    def placed(self, state: Any, batch: Any) -> tuple[Any, Any]:
        """Copies of both on the program's devices."""
        state = jax.tree.map(lambda leaf, shape: jax.device_put(np.array(leaf), shape.sharding), state, self._abstract)
        return state, place(batch, self.program.layout)

    def on_devices(self, state: Any, batch: Any) -> Any:
        """One step, as the training loop calls it: the state is donated."""
        return self._compiled(state, batch)

    def flops(self) -> float:
        """Floating-point operations of the compiled step, as XLA counts them."""
        return self._compiled.cost_analysis()["flops"]

    def __call__(self, state: Any, batch: Any) -> Any:
        """One step: the next state and the metrics, both in a host's memory."""
        return jax.device_get(self._compiled(*self.placed(state, batch)))


def gradients(state: Any) -> Any:
    """The gradients of the first step, out of the state after it."""
    return state["optimizer"].direction.trace


def batch_of(objective: Any, records: list[Any], rows: int = ROWS, length: int = LENGTH, seed: int = 0) -> Any:
    """A batch by the rule of `Objective.features`: packed where there are `segment_ids`, else an example a row."""
    return rows_of(objective, examples_of(objective, records, seed), rows, length)


def examples_of(objective: Any, records: list[Any], seed: int = 0) -> list[Any]:
    """What an objective makes of records."""
    return [objective.example(record, np.random.default_rng((seed, i))) for i, record in enumerate(records)]


def rows_of(objective: Any, examples: list[Any], rows: int = ROWS, length: int = LENGTH) -> Any:
    """A batch of examples, as many as fit."""
    features = objective.features(length)
    batch = {name: np.zeros((rows, *f.shape), f.dtype) for name, f in features.items()}
    if any(name.endswith("segment_ids") for name in features):
        _pack(batch, examples)
    else:
        for row, example in enumerate(examples[:rows]):
            for name, value in example.items():
                batch[name][(row, *(slice(size) for size in np.shape(value)))] = value
    return {**batch, "row": np.arange(rows, dtype=np.int32)}


def _pack(batch: Any, examples: list[Any]) -> None:
    """Features of one prefix are of one length; an example fits where they all do."""
    prefixes = [name.removesuffix("segment_ids") for name in batch if name.endswith("segment_ids")]
    row, segment, used = 0, 0, dict.fromkeys(prefixes, 0)
    for example in examples:
        sizes = {p: len(next(v for name, v in example.items() if name.startswith(p))) for p in prefixes}
        if any(used[p] + sizes[p] > batch[f"{p}segment_ids"].shape[1] for p in prefixes):
            row, segment, used = row + 1, 0, dict.fromkeys(prefixes, 0)
        if row == len(batch[f"{prefixes[0]}segment_ids"]):
            return
        segment += 1
        for p in prefixes:
            own = {name: value for name, value in example.items() if name.startswith(p)}
            for name, value in {**own, f"{p}segment_ids": segment, f"{p}positions": np.arange(sizes[p])}.items():
                batch[name][row, used[p] : used[p] + sizes[p]] = value
            used[p] += sizes[p]


def emptied(batch: Any, rows: slice | list[int]) -> Any:
    """The batch with these rows made empty, as the last rows of a split's last batch are."""
    batch = {name: np.array(value) for name, value in batch.items()}
    for name, value in batch.items():
        if name != "row":
            value[rows] = 0
    return batch


def relative_error(ours: Any, theirs: Any) -> float:
    """The largest, over the arrays of two trees, of ‖difference‖ / ‖theirs‖; tiny arrays weigh less.

    An array that is zero but for rounding (the bias of attention's keys has no gradient) has a relative error of any
    size, so a norm counts for at least a thousandth of the whole tree's.
    """
    pairs = [
        (np.asarray(a, np.float64), np.asarray(b, np.float64))
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    ]
    whole = np.sqrt(sum(np.square(b).sum() for _, b in pairs))
    errors = [np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-3 * whole, 1e-30) for a, b in pairs]
    return max(errors, default=0.0)


def assert_same_bits(ours: Any, theirs: Any) -> None:
    """Every array of two trees alike to the bit, NaN included."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for path, a in jax.tree.leaves_with_path(ours):
        assert np.asarray(a).tobytes() == np.asarray(_at(theirs, path)).tobytes(), jax.tree_util.keystr(path)


def _at(tree: Any, path: Any) -> Any:
    return dict(jax.tree.leaves_with_path(tree))[path]
