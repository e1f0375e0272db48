"""DiLoCo on eight devices against replicas that are trained one by one, and an outer optimizer written in NumPy."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny
from objectives.sketches import records

from t5x_like.errors import ExperimentError
from t5x_like.experiment import Checkpoint
from t5x_like.objectives.causal_lm import CausalLM
from t5x_like.optim.adamw import AdamW
from t5x_like.optim.schedules import Constant
from t5x_like.parallel import layout
from t5x_like.parallel.compiled import collectives, hlo
from t5x_like.parallelism import Outer, Parallelism
from t5x_like.program import program

SIZES = {"data": 2, "fsdp": 2, "tensor": 2}
OUTER = Outer(every=4, learning_rate=0.6, momentum=0.8)


def experiment(**options):
    adam = AdamW(schedule=Constant(), learning_rate=0.02, clip_norm=1.0)
    return tiny.experiment(
        CausalLM(), optimizer=adam, parallelism=Parallelism(**options), checkpoint=Checkpoint(every=8)
    )


def steps_of(outer):
    asked = experiment(strategy="diloco", outer=outer, **SIZES)
    run = program(asked, layout.make(asked.parallelism))
    initial = tiny.initial(run)
    return initial, tiny.Steps(run, initial, batches()[0])


def batches():
    """Of nine steps; the two replicas get different rows."""
    documents = records.documents()
    return [tiny.batch_of(CausalLM(), documents[i:] + documents[:i]) for i in range(9)]


def rows_of(batch, replica):
    half = tiny.ROWS // 2
    return {name: value[replica * half : (replica + 1) * half] for name, value in batch.items()}


def by_hand(outer, initial, fragment):
    """The shared parameters after each step, of replicas trained on one device one after the other.

    Args:
      outer: the outer optimizer's options.
      initial: the state of step 0 without replicas.
      fragment: number of a meeting, path and array of a parameter → the index of what meets.
    """
    alone = tiny.Steps(program(experiment()), initial, rows_of(batches()[0], 0))
    replicas = [dict(initial) for _ in range(2)]
    shared = {path: np.array(x) for path, x in jax.tree.leaves_with_path(initial["parameters"])}
    momentum = {path: np.zeros_like(x) for path, x in shared.items()}
    history = []
    for number, batch in enumerate(batches()):
        replicas = [alone(state, rows_of(batch, replica))[0] for replica, state in enumerate(replicas)]
        interval = outer.every // outer.fragments
        if (number + 1) % interval == 0:
            own = [dict(jax.tree.leaves_with_path(state["parameters"])) for state in replicas]
            for place, path in enumerate(shared):
                part = fragment((number + 1) // interval - 1, place, path, shared[path])
                if part is None:
                    continue
                gradient = np.mean([shared[path][part] - x[path][part] for x in own], axis=0)
                momentum[path][part] = outer.momentum * momentum[path][part] + gradient
                shared[path][part] -= outer.learning_rate * (gradient + outer.momentum * momentum[path][part])
                for x in own:
                    x[path] = np.array(x[path])
                    x[path][part] = shared[path][part]
            structure = jax.tree.structure(initial["parameters"])
            for state, x in zip(replicas, own, strict=True):
                state["parameters"] = structure.unflatten(x.values())
        history.append({path: x.copy() for path, x in shared.items()})
    return history, replicas


def whole(meeting, place, path, array):
    return ...


def halves(meeting, place, path, array):
    """Every second layer, and of what is in no layer every second parameter."""
    number = meeting % 2
    if "blocks" in jax.tree_util.keystr(path):
        return slice(number, None, 2)
    return ... if place % 2 == number else None


@pytest.mark.parametrize(("fragments", "fragment"), [(1, whole), (2, halves)])
def test_replicas_train_alone_and_meet_as_the_paper_says(fragments, fragment):
    outer = dataclasses.replace(OUTER, fragments=fragments)
    state, step = steps_of(outer)
    alone = {name: value for name, value in state.items() if name != "replicas"}
    alone["optimizer"] = jax.tree.map(lambda x: x[0], state["replicas"]["optimizer"])
    history, replicas = by_hand(outer, alone, fragment)
    for batch, expected in zip(batches(), history, strict=True):
        state, metrics = step(state, batch)
        found = dict(jax.tree.leaves_with_path(state["parameters"]))
        for path, x in expected.items():
            np.testing.assert_allclose(found[path], x, atol=2e-5, err_msg=jax.tree_util.keystr(path))
    assert metrics["skipped_steps"] == 0 and state["optimizer"].count == 9
    for number, other in enumerate(replicas):
        own = jax.tree.map(lambda x, number=number: x[number], state["replicas"]["parameters"])
        assert tiny.relative_error(own, other["parameters"]) < 1e-3
    first, second = (jax.tree.leaves(state["replicas"]["parameters"])[0][number] for number in (0, 1))
    assert np.abs(first - second).max() > 1e-4  # a step after the second meeting they are apart again


def test_between_meetings_nothing_but_scalars_crosses():
    _, step = steps_of(OUTER)
    module = hlo.parse(step._compiled.as_text())
    crossing = [item for item in collectives.collectives(module, SIZES | {"rest": 1}) if "data" in item.axis.split(",")]
    always = [item for item in crossing if item.bytes <= 64]
    rarely = [item for item in crossing if item.bytes > 64]
    assert rarely and sum(item.bytes for item in always) < 512
    conditional = {
        name
        for part in module.computations.values()
        for i in part
        for name in i.called.values()
        if i.opcode == "conditional"
    }
    assert conditional  # what is rare stands in a branch


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"outer": Outer(every=5)}, "checkpoint.every: a commit every 8 steps would fall between meetings"),
        ({"stage": 2}, "parallelism.stage: 2 stages and replicas that train by themselves"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(options, sentence):
    with pytest.raises(ExperimentError) as error:
        experiment(strategy="diloco", **SIZES, **options)
    assert sentence.partition(": ")[2] in str(error.value)


def test_fragments_that_do_not_divide_the_steps_are_one_sentence():
    with pytest.raises(ExperimentError, match="3 fragments do not divide the 50 steps of `every`"):
        Outer(fragments=3)
