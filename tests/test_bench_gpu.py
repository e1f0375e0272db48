"""The comparison on a GPU, as far as a machine without one can say."""

import glob
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from t5x_like.program import describe

FILE = Path(__file__).parents[1] / "tools/bench_gpu.py"


@pytest.mark.skipif(bool(glob.glob("/dev/nvidia[0-9]*")), reason="there is a GPU here")
def test_without_a_gpu_it_says_so_and_gives_no_figure():
    done = subprocess.run([sys.executable, FILE, "--json"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "there is no NVIDIA GPU here, so nothing is measured\n")


@pytest.mark.parametrize("name, config", [("124m", "gpt2"), ("1b", "llama")])
def test_the_shapes_are_those_of_the_configs_models(name, config):
    spec = importlib.util.spec_from_file_location("bench_gpu", FILE)
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    layers, width, heads, kv_heads, hidden, vocabulary, length, _ = bench.SHAPES[name]
    experiment = tiny.from_flat(
        {
            "model": {"family": config, "size": name},
            "data": {"sequence_length": length},
            "optimizer": {"name": "adamw"},
        }
    )
    model = tiny.flat(experiment.model)
    assert (model.layers, model.embed, model.heads, model.kv_heads, model.mlp, model.vocab_size) == (
        layers,
        width,
        heads,
        kv_heads,
        hidden,
        vocabulary,
    )
    # What PyTorch's model has: matrices, and biases and the norms' shifts where there are any.
    biases = config == "gpt2"
    each = width * (heads + 2 * kv_heads) * (width // heads) + width * width + (2 + (not biases)) * width * hidden
    each += 2 * width + biases * (2 * width + 3 * width + width + hidden + width)
    tables = vocabulary * width * (1 if biases else 2) + biases * length * width
    assert describe(experiment)["parameters"] == layers * each + tables + width + biases * width
