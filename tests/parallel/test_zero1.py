"""ZeRO-1: copies of the parameters on all devices, of the optimizer's state a part on each; read off the programs."""

import collections

import jax
import numpy as np
import pytest
import tiny
from etils import epath
from objectives.sketches import records

from t5x_like import variables
from t5x_like.checkpoint.store import CheckpointStore
from t5x_like.experiment import Checkpoint
from t5x_like.objectives.causal_lm import CausalLM
from t5x_like.optim.adamw import AdamW
from t5x_like.optim.schedules import Constant
from t5x_like.parallel import layout
from t5x_like.parallel.compiled import collectives, hlo, memory
from t5x_like.parallelism import Parallelism
from t5x_like.program import program

OPTIMIZER = AdamW(schedule=Constant(), learning_rate=0.01)
DEVICES = 8


def program_of(**parallelism):
    options = Parallelism(**parallelism)
    experiment = tiny.experiment(CausalLM(), optimizer=OPTIMIZER, parallelism=options)
    return program(experiment, layout.make(options))


@pytest.fixture(scope="module")
def batch():
    return tiny.batch_of(CausalLM(), records.documents(), rows=2 * DEVICES)  # a row each in either microbatch


@pytest.fixture(scope="module")
def initial():
    return tiny.initial(program(tiny.experiment(CausalLM(), optimizer=OPTIMIZER)))


@pytest.fixture(scope="module")
def steps(initial, batch):
    """By strategy, with any changes: a compiled step, kept."""
    made = {}

    def compiled(strategy, **changes):
        key = strategy, *changes.items()
        if key not in made:
            made[key] = tiny.Steps(program_of(strategy=strategy, **changes), initial, batch)
        return made[key]

    return compiled


def read(step):
    return collectives.collectives(hlo.parse(step._compiled.as_text()), dict(step.program.layout.mesh.shape))


def sizes(step):
    """Bytes of the parameters that are cut, and of those that are too small to be."""
    infos = variables.flatten(step.program.parameter_infos())
    of = {cut: sum(4 * np.prod(i.shape) for i in infos.values() if ("embed" in i.axes) == cut) for cut in (True, False)}
    return of[True], of[False]


def test_each_device_has_all_parameters_and_a_part_of_their_moments(steps, batch):
    step = steps("zero1")
    cut, whole = sizes(step)
    state = step.program.abstract_state()
    assert memory.state_bytes(state["parameters"]) == cut + whole
    assert memory.state_bytes(state["optimizer"]) == 2 * (cut / DEVICES + whole) + 2 * 4  # two counts
    rows = sum(value.nbytes for name, value in batch.items() if name != "row") / DEVICES  # no dropout
    counters = 5 * 4
    expected = (cut + whole) + 2 * (cut / DEVICES + whole) + counters + rows
    assert step._compiled.memory_analysis().argument_size_in_bytes == expected
    data = steps("data")._compiled.memory_analysis().argument_size_in_bytes
    assert data == 3 * (cut + whole) + counters + rows


@pytest.mark.parametrize("parts", [1, 2])
def test_gradients_are_summed_into_parts_and_updated_parameters_gathered(steps, parts):
    step = steps("zero1", **({"microbatches": parts} if parts > 1 else {}))
    cut, _ = sizes(step)
    gathered = [item for item in read(step) if item.kind == "all-gather"]
    assert {item.axis for item in gathered} == {"data"}
    assert sum(item.bytes for item in gathered) == cut  # each updated parameter once, and no moment
    if parts == 1:
        assert not [item for item in read(steps("data")) if item.kind == "all-gather"]


def test_the_sum_of_microbatches_gradients_is_in_parts(steps):
    """What the loop over microbatches carries: of each gradient a part, where plain data parallelism has all of it."""
    gradients = jax.tree.leaves(steps("zero1").program.abstract_gradients())
    parts = collections.Counter(leaf.sharding.shard_shape(leaf.shape) for leaf in gradients if leaf.ndim > 1)

    def carried(strategy):
        module = hlo.parse(steps(strategy, microbatches=2)._compiled.as_text())
        loops = [i for computation in module.computations.values() for i in computation if i.opcode == "while"]
        (loop,) = [loop for loop in loops if loop.op_name == "jit(train_step)/while"]
        return collections.Counter(array.dims for array in loop.arrays)

    stacks = {(2, 16): 2}  # of norms, which stay whole
    assert parts - collections.Counter(stacks) <= carried("zero1")
    assert not {shape for shape in parts if shape not in stacks} & set(carried("data"))


@pytest.mark.parametrize(
    ("first", "then"),
    [({"strategy": "zero1"}, {"strategy": "fsdp"}), ({"strategy": "fsdp"}, {"strategy": "pp", "stage": 2})],
    ids=["zero1 to fsdp", "fsdp to stages"],
)
def test_one_and_the_same_run_goes_on_from_one_strategy_to_another(steps, initial, batch, tmp_path, first, then):
    before, after = steps(**first), steps(**then)
    state, _ = before.on_devices(*before.placed(initial, batch))
    with CheckpointStore(epath.Path(tmp_path), Checkpoint(), asynchronous=False) as store:
        store.save(1, state, {}, np.zeros(0, np.uint64))
        restored = store.restore(1, after.program.abstract_state()).state
    places = jax.tree.map(lambda leaf: leaf.sharding, after.program.abstract_state())
    assert jax.tree.map(lambda leaf: leaf.sharding, restored) == places
    tiny.assert_same_bits(jax.device_get(restored), jax.device_get(state))
    ours, theirs = after(restored, batch), before(state, batch)
    assert float(ours[1]["loss"]) == pytest.approx(float(theirs[1]["loss"]), rel=1e-6)
    assert tiny.relative_error(ours[0]["parameters"], theirs[0]["parameters"]) < 1e-5
