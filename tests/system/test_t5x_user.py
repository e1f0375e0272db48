"""A T5X user's own gin file and `tasks.py`, unchanged, on T5X's command line: trained, killed, resumed, measured."""

import json
import signal
import subprocess
import sys

import pytest
from interop.t5x_user import bring
from runs import Program, committed, exact, same_bits, wait_for_line

pytestmark = pytest.mark.slow  # six processes, each of which imports TensorFlow

PRETRAIN = """
from __gin__ import dynamic_registration
import seqio
import tasks

include "t5x/examples/t5/t5_1_1/small.gin"
include "t5x/configs/runs/pretrain.gin"

MIXTURE_OR_TASK_NAME = "my_mixture"
TASK_FEATURE_LENGTHS = {"inputs": 64, "targets": 24}
TRAIN_STEPS = 24
DROPOUT_RATE = 0.1
BATCH_SIZE = 4
USE_CACHED_TASKS = False
seqio.SentencePieceVocabulary:
  sentencepiece_model_file = "PLACE/v.model"
  extra_ids = 100
"""
SMALL = {
    "data.lanes": 2,
    "data.streaming": True,
    "data.shuffle_window": 16,
    "model.vocab_size": 512,
    "model.embed": 16,
    **{
        f"model.{stack}.{path}": size
        for stack in ("encoder", "decoder")
        for path, size in (
            ("layers", 1),
            ("layer.attention.heads", 2),
            ("layer.attention.kv_heads", 2),
            ("layer.attention.head_dim", 8),
            ("layer.feed_forward.hidden", 32),
        )
    },
    "model.dtype": "float32",
    "checkpoint.every": 5,
    "telemetry.every": 1,
    "telemetry.tensorboard": False,
    "evaluators": {"validation": {"name": "loss"}, "theirs": {"name": "seqio", "mixture": "my_measured"}},
    "evaluators.theirs.features": {"inputs": 32},
    "evaluators.theirs.tokens": 4,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("t5x-user")
    bring(place)
    build = f"from pathlib import Path\nplace = Path({str(place)!r})\nexec((place / 'build.py').read_text())"
    subprocess.run([sys.executable, "-c", build], check=True, capture_output=True)
    (place / "mine.gin").write_text(PRETRAIN.replace("PLACE", str(place)))
    return place


@pytest.fixture
def program(place, program_environment):
    program = Program(place, program_environment)
    del program.environment["PYTHONWARNINGS"]  # TensorFlow has its own
    return program


def command(workdir):
    return (
        "--run_mode=train",
        "--gin_file=mine.gin",
        f"--tfds_data_dir={workdir.parent}/tfds",
        f'--gin.MODEL_DIR="{workdir}"',
        *(f"--gin.{path}={value!r}" for path, value in SMALL.items()),
        "--json",
    )


def test_killed_and_resumed_it_ends_with_the_same_bits(program, place):
    whole, killed = place / "whole", place / "killed"
    out, _ = program.run(*command(whole), module="t5x_like.main")
    process = program.start(*command(killed), module="t5x_like.main")
    assert wait_for_line(process, killed, 13)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    program.run(*command(killed), module="t5x_like.main")
    same_bits(committed(killed, 24), committed(whole, 24))
    assert exact(killed) == exact(whole)

    # A checkpoint runs nobody's module; what needs one says so.
    _, err = program.run("evaluate", f"--checkpoint={whole}", "--json", status=2)
    assert "SeqIO knows no task or mixture 'my_mixture'; it knows none; --module=PATH" in err
    again, _ = program.run("evaluate", f"--checkpoint={whole}", "--module=tasks.py", "--json")
    for name in ("validation/loss", "theirs/my_measured/same", "theirs/my_measured/nats"):
        assert json.loads(again)[name] == json.loads(out)[name]
