"""DiLoCo on two simulated slices: what it learns against a run that sums gradients every step, and its exact resume."""

import signal

import jax
import pytest
from runs import TINY, Program, committed, exact, lines, same_bits, wait_for_line

from t5x_like.frontends import configdict
from t5x_like.parallel import layout
from t5x_like.parallel.compiled import collectives, hlo
from t5x_like.parallel.placement import batch_shapes
from t5x_like.program import program
from t5x_like.step import compiled_step

EVERY = 25
SMALL = (
    "--config=configs/quickstart.py",
    "--config.model.decoder.layers=2",
    "--config.model.embed=128",
    "--config.model.decoder.layer.attention.head_dim=64",
    "--config.model.decoder.layer.feed_forward.hidden=384",
    "--config.data.sequence_length=128",
    "--config.data.batch_size=16",
    "--config.data.lanes=16",
    "--config.steps=400",
    "--config.checkpoint.every=200",
    "--config.telemetry.every=20",
    "--config.telemetry.tensorboard=false",
    "--config.evaluators.validation.every=200",
    "--config.parallelism.data=2",
)
DILOCO = ("--config.parallelism.strategy=diloco", f"--config.parallelism.outer.every={EVERY}")


@pytest.fixture
def two(tmp_path, hasty_environment):
    """The program on two devices, which stand for two slices."""
    flags = f"{hasty_environment['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    return Program(tmp_path, {**hasty_environment, "XLA_FLAGS": flags})


def validation_loss(workdir):
    return [line["validation/loss"] for line in lines(workdir) if "validation/loss" in line][-1]


def crossing_bytes(*flags):
    """Bytes of the collectives between the two slices in each run of the step's program."""
    experiment = configdict.load(SMALL[0].partition("=")[2], [*SMALL[1:], *flags])
    made = layout.make(experiment.parallelism, devices=jax.devices()[:2])
    run = program(experiment, made)
    text = compiled_step(run).lower(run.abstract_state(), batch_shapes(experiment, made)).compile().as_text()
    return sum(item.bytes for item in collectives.collectives(hlo.parse(text), dict(made.mesh.shape)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_learns_as_much_with_a_twentieth_of_the_bytes(two, tmp_path, seed):
    together, apart = tmp_path / "together", tmp_path / "apart"
    for workdir, flags in ((together, ()), (apart, DILOCO)):
        two.run("train", *SMALL, f"--workdir={workdir}", f"--config.seed={seed}", *flags)
    assert validation_loss(apart) <= 1.01 * validation_loss(together)


@pytest.mark.slow
def test_a_twentieth_of_the_bytes_crosses():
    meeting = crossing_bytes(*DILOCO)  # with the branch of the meeting, which runs once in `EVERY` steps
    assert meeting / EVERY <= crossing_bytes() / 20


def test_killed_between_meetings_it_ends_with_the_same_bits(two, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    flags = ("--config.parallelism.data=2", DILOCO[0], "--config.parallelism.outer.every=3")
    flags += ("--config.checkpoint.every=6", "--config.steps=40")
    two.train(whole, *flags)
    process = two.start("train", *TINY, f"--workdir={killed}", *flags)
    assert wait_for_line(process, killed, 14)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    two.train(killed, *flags)
    same_bits(committed(killed, 40), committed(whole, 40))
    assert exact(killed) == exact(whole)
