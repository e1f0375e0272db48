"""Every strategy trains as one device does: the same batches to the bit, the same losses to rounding.

Twenty steps with the real data on eight devices, which are taken for those of `HOSTS` hosts: each host prepares its own
part of a batch by itself, and what then lies on the devices, and the loss of every step, is compared with one device's.
A strategy is one line of a table; a model is one of `MODELS`.
"""

import contextlib
import dataclasses
import hashlib
import itertools

import jax
import numpy as np
import pytest
import tiny

from t5x_like.data.pipeline import Pipeline
from t5x_like.parallel import layout
from t5x_like.parallel.placement import place, shared
from t5x_like.program import program

STEPS, ROWS, LENGTH, DEVICES, HOSTS = 20, 16, 32, 8, 4
TOLERANCE = 1e-5  # relative, of a loss

SIZE = {"layers": 2, "embed": 16, "heads": 4, "kv_heads": 4, "head_dim": 4, "mlp": 32}
EXPERTS = {"experts": 4, "router_balance_loss": 0.02, "router_z_loss": 1e-3}
# The corpus's 4,096 pieces and one for what is hidden; a table that two devices divide.
MASKED = {"name": "masked_lm", "vocab_size": 4097, "mask_id": 4096, "special_ids": [0, 1]}
T5_OBJECTIVE = {"name": "span_corruption", "vocab_size": 4224}  # the corpus's 4,096 pieces and sentinels

MODELS = {
    "llama": {"model": {"family": "llama", "vocab_size": 4096, **SIZE}},
    "grouped, windows": {"model": {"family": "llama", "vocab_size": 4096, **SIZE, "kv_heads": 2, "window": 10}},
    "gpt2": {"model": {"family": "gpt2", "vocab_size": 4096, **SIZE, "dropout": 0.1}},
    "experts": {"model": {"family": "llama", "vocab_size": 4096, **SIZE, **EXPERTS}},
    "t5": {"model": {"family": "t5_1_1", "vocab_size": 4224, **SIZE, "encoder_layers": 2}, "objective": T5_OBJECTIVE},
    "bert": {"model": {"family": "bert", "vocab_size": 4104, **SIZE}, "objective": MASKED},
}

# Four layers in two stages: each has two that follow each other, or two that do not.
DEEP = {"gpt2": {"layers": 4}, "t5": {"layers": 4, "encoder_layers": 4}}
MODELS |= {
    f"{name}, deep": {**MODELS[name], "model": {**MODELS[name]["model"], **layers}} for name, layers in DEEP.items()
}

# What it is called, whose model it trains, and its `parallelism`.
TABLE = [
    ("zero1", "llama", {"strategy": "zero1"}),
    ("fsdp", "llama", {"strategy": "fsdp"}),
    ("fsdp_tp", "gpt2", {"strategy": "fsdp_tp", "tensor": 2, "remat": "full"}),
    ("sp", "gpt2", {"strategy": "sp", "sequence": 4}),
    ("ring", "grouped, windows", {"strategy": "ring", "sequence": 4, "remat": "save_qkv_attention"}),
    ("custom, three axes in microbatches", "gpt2", {"data": 2, "fsdp": 2, "tensor": 2, "microbatches": 2}),
    ("ep", "experts", {"strategy": "ep", "expert": 4}),
    ("t5, fsdp_tp", "t5", {"strategy": "fsdp_tp", "tensor": 2}),
    ("pp and copies", "gpt2", {"strategy": "pp", "stage": 2, "data": 2, "stage_microbatches": 4}),
    ("pp, circular", "gpt2, deep", {"strategy": "pp", "stage": 2, "stage_rounds": 2, "remat": "full"}),
]
# Parameters cut along their widths alone, by all devices, whatever the heads and hidden units are cut by.
WIDTHS = {"embed": ["fsdp", "tensor"], "heads": [], "kv": [], "mlp": [], "vocab": []}
# The same in parts, or of another model: minutes more for what those above are made of.
ALSO = [
    ("data", "llama", {"strategy": "data"}),
    ("hsdp", "llama", {"strategy": "hsdp", "data": 2}),
    ("zero1 and tensor in microbatches", "gpt2", {"strategy": "zero1", "tensor": 2, "microbatches": 2}),
    ("zero1 in stages", "gpt2", {"strategy": "zero1", "stage": 2}),
    ("tp", "gpt2", {"strategy": "tp", "tensor": 4}),
    ("fsdp and its model's dropout", "gpt2", {"strategy": "fsdp"}),
    ("ring, causal, in stages", "gpt2", {"strategy": "ring", "stage": 2, "sequence": 2}),
    ("ring, biased", "t5", {"strategy": "ring", "sequence": 2, "tensor": 2}),
    ("t5, fsdp", "t5", {"strategy": "fsdp"}),
    ("bert, fsdp_tp", "bert", {"strategy": "fsdp_tp", "tensor": 2}),
    ("custom, rules of one's own", "gpt2", {"fsdp": 4, "tensor": 2, "rules": WIDTHS}),
    ("experts and copies", "experts", {"data": 2, "expert": 4}),
    ("experts, fsdp, long rows, parts", "experts", {"fsdp": 2, "expert": 2, "sequence": 2, "microbatches": 2}),
    ("four stages in parts", "gpt2, deep", {"data": 2, "stage": 4, "microbatches": 2}),
    ("stages, tensor and long rows", "gpt2", {"stage": 2, "tensor": 2, "sequence": 2, "scan_layers": False}),
    ("stages and a shared stream", "gpt2", {"strategy": "fsdp_tp", "stage": 2, "tensor": 2}),
    ("experts in stages", "experts", {"data": 2, "expert": 2, "stage": 2}),
    ("t5 in stages", "t5", {"fsdp": 2, "tensor": 2, "stage": 2}),
    ("t5 in circular stages", "t5, deep", {"fsdp": 2, "stage": 2, "stage_rounds": 2, "data": 2}),
]
ROWS_OF_TABLE = [
    pytest.param(model, parallelism, id=name, marks=marks)
    for table, marks in ((TABLE, ()), (ALSO, pytest.mark.slow))
    for name, model, parallelism in table
]


def experiment_of(name, **parallelism):
    return tiny.from_flat(
        {
            **MODELS[name],
            "steps": STEPS,
            "data": {
                "task": {"name": "sotu", "splits": {"train": {"every": 40, "include": [3]}}},
                "sequence_length": LENGTH,
                "batch_size": ROWS,
                "lanes": 4,
            },
            "optimizer": {"learning_rate": 3e-3, "schedule": {"name": "linear", "warmup_steps": 2}},
            "parallelism": parallelism,
        }
    )


@pytest.fixture(scope="module")
def corpus():
    return experiment_of("llama").data.task.open("train")


@contextlib.contextmanager
def feeds(experiment, corpus, placed):
    """A pipeline for every part of a batch that the hosts of a layout's devices feed."""
    where = {jax.devices()[0]: (slice(None),)} if placed.mesh is None else None
    where = where or placed.sharding(("batch",)).devices_indices_map((ROWS,))
    held: dict[int, set[int]] = {}
    for device, (rows, *_) in where.items():
        held.setdefault(device.id * HOSTS // DEVICES, set()).add(rows.start or 0)
    parts = {shared(held, host) for host in held}
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                contextlib.closing(
                    Pipeline(
                        corpus,
                        experiment.objective,
                        sequence_length=LENGTH,
                        batch_size=ROWS,
                        lanes=4,
                        seed=0,
                        host_index=part.index,
                        host_count=part.count,
                    )
                )
            )
            for part in sorted(parts, key=lambda part: part.index)
        ]


def digest(batch):
    """Of a global batch, its rows in their order."""
    batch = {name: np.asarray(value) for name, value in sorted(batch.items())}
    order = np.argsort(batch["row"])
    assert (batch["row"][order] == np.arange(ROWS)).all()
    return hashlib.sha256(b"".join(value[order].tobytes() for value in batch.values())).hexdigest()


def train(experiment, placed, corpus, initial):
    """The first losses, the digests of their batches, and the state after them."""
    run = program(experiment, placed)
    losses, digests, step, state = [], [], None, initial
    with feeds(experiment, corpus, run.layout) as pipelines:
        for parts in itertools.islice(zip(*pipelines, strict=True), STEPS):
            rows = [prepared.batch for prepared in parts]
            batch = {name: np.concatenate([part[name] for part in rows]) for name in rows[0]}
            if step is None:
                step = tiny.Steps(run, initial, batch)
                state, on_devices = step.placed(initial, batch)
            else:
                on_devices = place(batch, run.layout)
            digests.append(digest(on_devices))
            state, metrics = step.on_devices(state, on_devices)
            losses.append(float(metrics["loss"]))
    return losses, digests, jax.device_get(state)


@pytest.fixture(scope="module")
def alone(corpus):
    """By model: what one device does from a first state."""
    done = {}

    def train_alone(model):
        if model not in done:
            experiment = experiment_of(model)
            initial = tiny.initial(program(experiment))
            done[model] = initial, train(experiment, layout.Layout(), corpus, initial)
        return done[model]

    return train_alone


@pytest.mark.parametrize(("model", "parallelism"), ROWS_OF_TABLE)
def test_a_strategy_trains_as_one_device_does(corpus, alone, model, parallelism):
    initial, (losses, digests, state) = alone(model)
    experiment = experiment_of(model, **parallelism)
    placed = layout.make(experiment.parallelism)
    assert placed.mesh.size == DEVICES
    ours, our_digests, our_state = train(experiment, placed, corpus, initial)
    assert our_digests == digests and len(set(digests)) == STEPS
    np.testing.assert_allclose(ours, losses, rtol=TOLERANCE)
    assert losses[-1] < losses[0]
    assert state["step"] == our_state["step"] == STEPS


def test_an_update_that_is_off_by_a_thousandth_is_seen(corpus, alone):
    initial, (losses, digests, _) = alone("llama")
    experiment = experiment_of("llama", fsdp=8)
    optimizer = dataclasses.replace(experiment.optimizer, learning_rate=1.001 * experiment.optimizer.learning_rate)
    other = dataclasses.replace(experiment, optimizer=optimizer)
    ours, our_digests, _ = train(other, layout.make(other.parallelism), corpus, initial)
    assert our_digests == digests
    assert np.max(np.abs(np.divide(ours, losses) - 1)) > TOLERANCE
