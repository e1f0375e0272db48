"""What a step's compilation depends on: the chip, the length of a row, and what an experiment says itself."""

import jax
import jax.numpy as jnp
import pytest

from t5x_like.errors import ExperimentError
from t5x_like.kernels import splash
from t5x_like.kernels.barrier import materialize
from t5x_like.parallel import layout, topologies, tuning
from t5x_like.parallelism import Parallelism

VMEM = "xla_tpu_scoped_vmem_limit_kib"


def on(name, **options):
    return layout.make(Parallelism(**options), topologies.parse(name).devices())


@pytest.mark.parametrize(
    ("name", "options", "barriers", "fused", "compiler_options"),
    [
        ("v5e:2x2", {}, True, True, None),
        ("v5p:2x2x1", {}, True, True, None),
        ("v6e:2x2", {}, False, False, {VMEM: 98304}),
        ("v6e:2x2", {"barriers": "on", "attention_backward": "fused"}, True, True, {VMEM: 98304}),
        ("v6e:2x2", {"compiler_options": {VMEM: "65536"}}, False, False, {VMEM: "65536"}),
        ("v5e:2x2", {"barriers": "off", "attention_backward": "split"}, False, False, None),
    ],
)
def test_a_chip_has_what_was_measured_for_it_under_what_the_experiment_says(
    name, options, barriers, fused, compiler_options
):
    made = on(name, **options)
    assert made.compiler_options == compiler_options
    assert made.tuning.fuses_backward(8192) == fused
    with made.use():
        text = str(jax.make_jaxpr(lambda x: materialize(x * 2) + 1)(jnp.ones(3)))
        kernel = splash.kernel(1, splash.visible((8192, 8192), True, 0), 0.0, False)
    assert ("optimization_barrier" in text) == barriers
    assert kernel.kwargs["block_sizes"].use_fused_bwd_kernel == fused
    assert (kernel.dq_mask_info is None) == fused


def test_short_rows_have_one_kernel_everywhere():
    assert all(tuning.choose(Parallelism(), kind).fuses_backward(2048) for kind in ("TPU v6 lite", "TPU v5"))


def test_an_unknown_way_is_one_sentence():
    with pytest.raises(ExperimentError, match=r"barriers: 'yes' is not known"):
        Parallelism(barriers="yes")


@pytest.mark.parametrize(
    ("name", "group", "hops"),
    [("v6e:16x16", 256, 16), ("v6e:16x16", 16, 8), ("v5p:4x4x4", 64, 6), ("v5e:4x4", 16, 6), ("v5e:2x2", 2, 1)],
)
def test_the_farthest_chip_of_a_group_is_so_many_links_away(name, group, hops):
    assert topologies.parse(name).hops(group) == hops
