"""FLOPs that preflight reads from a program, against those that follow from the model's sizes."""

import jax
import product_shapes
import pytest
import tiny

from t5x_like.frontends import configdict
from t5x_like.parallel import topologies
from t5x_like.preflight import build, report

SMALL = {
    "steps": 10,
    "model": {
        "family": "llama",
        "vocab_size": 131072,
        "layers": 3,
        "embed": 1024,
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 128,
        "mlp": 768,
        "max_length": 256,
        "dtype": "bfloat16",
    },
    "data": {"sequence_length": 256, "batch_size": 16, "lanes": 16},
    "optimizer": {"name": "adamw"},
    "parallelism": {"fsdp": 4, "remat": "save_qkv_attention"},
}

pytestmark = pytest.mark.filterwarnings("ignore:.*cache.*")


def counted(figures):
    """What preflight counted, on one chip."""
    return figures["recompute_ratio"] * figures["run"]["flops"] / figures["run"]["steps"] / figures["chips"]


def test_a_program_for_sparse_cores_is_read_and_has_the_products_of_its_shapes():
    sized = tiny.from_flat(SMALL)
    built = build.build(sized, topologies.parse("v6e:2x2"))
    # The token table is gathered by the SparseCores, in instructions that `Compiled.as_text()` fails on.
    assert "async-update(" in built.text
    with pytest.raises(jax.errors.JaxRuntimeError, match="async-update"):
        built.compiled.as_text()
    found = report.report(built)
    assert found["attention_kernel_calls_per_layer"] == 1
    assert counted(found) == pytest.approx(product_shapes.executed_flops(sized, 4, rotations=2), rel=5e-3)


# Every config whose layers are those of a causal language model, where it fits by its default settings.
PLACES = [
    ("llama_1b", "v4:2x4x4", ["fsdp=32"], 5),
    ("llama2_7b", "v5e:16x16", [], 5),
    ("llama3_8b", "v6e:16x16", [], 7),
    ("llama2_70b", "v5p:4x8x8", ["fsdp=256", "sequence=1", "microbatches=1", "remat=save_qkv_attention"], 5),
]


@pytest.mark.slow
@pytest.mark.parametrize("name, topology, flags, backward_products", PLACES, ids=lambda value: str(value)[:12])
def test_a_large_step_has_the_products_of_its_shapes(name, topology, flags, backward_products):
    loaded = configdict.load(f"configs/{name}.py", [f"--config.parallelism.{flag}" for flag in flags])
    place = topologies.parse(topology)
    found = report.report(build.build(loaded, place))
    expected = product_shapes.executed_flops(loaded, place.chips, backward_products=backward_products, rotations=2)
    assert counted(found) == pytest.approx(expected, rel=5e-3)
