"""FLOPs that preflight reads from a program, against those that follow from the model's sizes."""

import product_shapes
import pytest

from t5x_like.frontends import configdict
from t5x_like.parallel import topologies
from t5x_like.preflight import build, report

pytestmark = pytest.mark.filterwarnings("ignore:.*cache.*")


def counted(figures):
    """What preflight counted, on one chip."""
    return figures["recompute_ratio"] * figures["run"]["flops"] / figures["run"]["steps"] / figures["chips"]


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
    expected = product_shapes.executed_flops(loaded, place.size, backward_products=backward_products, rotations=2)
    assert counted(found) == pytest.approx(expected, rel=5e-3)
