"""The layout of a checkpoint on other devices than it was trained on."""

import jax
import pytest
from runs import TINY

from t5x_like.errors import ExperimentError
from t5x_like.evaluation.devices import layout_here
from t5x_like.frontends import configdict

TENSOR = ("--config.parallelism.tensor=2", "--config.model.decoder.layer.attention.kv_heads=2")


def experiment(*overrides):
    return configdict.load("configs/quickstart.py", [*TINY[1:], *overrides])


def sizes(*overrides, count=8):
    placed = layout_here(experiment(*overrides), jax.devices()[:count])
    return {axis: size for axis, size in placed.mesh.shape.items() if size > 1}


def test_an_experiment_keeps_its_own_layout_where_there_are_as_many_devices():
    assert sizes(*TENSOR) == {
        "data": 4,
        "tensor": 2,
    }
    assert sizes(*TENSOR, count=2) == {"tensor": 2}


@pytest.mark.parametrize(
    ("overrides", "count", "taken"),
    [
        (("--config.data.batch_size=256", "--config.parallelism.fsdp=256"), 8, 8),
        (("--config.data.batch_size=256", "--config.parallelism.fsdp=256"), 1, 1),
        (("--config.data.batch_size=256", "--config.parallelism.fsdp=256"), 7, 4),  # of 16 wide
        (("--config.parallelism.stage=3", "--config.model.decoder.layers=3"), 8, 4),  # of 4 rows
        (("--config.parallelism.fsdp=3", "--config.evaluators.validation.batch_size=6"), 8, 2),
    ],
)
def test_on_another_number_of_devices_as_many_share_the_parameters_as_divide_model_and_rows(overrides, count, taken):
    assert sizes(*overrides, count=count) == ({"fsdp": taken} if taken > 1 else {})


def test_what_is_wrong_on_any_number_of_devices_stays_an_error():
    with pytest.raises(ExperimentError, match="there is no logical axis 'emebd'"):
        layout_here(experiment("--config.parallelism.rules={'emebd': []}"))


def test_several_processes_take_all_devices_or_say_why_not(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert sizes("--config.parallelism.fsdp=3", count=4) == {"fsdp": 4}
    with pytest.raises(ExperimentError, match=r"data\.batch_size: 4 rows cannot be shared by the 8 devices here"):
        layout_here(experiment("--config.parallelism.fsdp=3"))
