"""Products with shared-out parameters, and rows of shared-out tables, against the same without a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from t5x_like.models import ring_embedding as lookup
from t5x_like.models import sharded_linear as shared
from t5x_like.parallel import layout, scatter, topologies
from t5x_like.parallelism import Parallelism


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.fixture(params=[(2, 4), (4, 2), (2, 2, 2)], ids=str)
def mesh(request, monkeypatch):
    """Eight devices in stages, as though they lay in lines."""
    monkeypatch.setattr(scatter, "stages", lambda mesh, axis: request.param)
    return layout.make(Parallelism(fsdp=8))


@pytest.fixture
def both(monkeypatch):
    """Four devices in stages, and two such groups that hold other rows."""
    monkeypatch.setattr(scatter, "stages", lambda mesh, axis: (2, 2))
    return layout.make(Parallelism(data=2, fsdp=4))


def placed(function, setting, *arguments):
    with setting.use():
        return jax.jit(function)(*arguments)


def test_a_sum_in_stages_leaves_each_device_its_rows(mesh, request):
    sizes = scatter.stages(mesh.mesh, "fsdp")
    x = normal(0, 8, 16, 3)
    summed = jax.shard_map(
        lambda x: scatter.reduce_scatter(x[0], "fsdp", sizes),
        mesh=mesh.mesh,
        in_specs=PartitionSpec("fsdp"),
        out_specs=PartitionSpec("fsdp"),
        check_vma=False,
    )
    np.testing.assert_allclose(jax.jit(summed)(x), x.sum(0), atol=1e-5)


PRODUCTS = {
    "in": (
        lambda x, w: shared.product(x, w, ("embed", "mlp")),
        lambda x, w: x @ w,
        lambda: (normal(0, 8, 2, 8), normal(1, 8, 6)),
    ),
    "out": (
        lambda x, w: shared.product(x, w, ("mlp", "embed")),
        lambda x, w: x @ w,
        lambda: (normal(0, 8, 2, 6), normal(1, 6, 8)),
    ),
    "to heads": (
        lambda x, w: shared.to_heads(x, w, ("embed", "heads"), 3),
        lambda x, w: (x @ w).reshape(8, 4, 3, 2).transpose(0, 2, 1, 3),
        lambda: (normal(0, 8, 4, 8), normal(1, 8, 6)),
    ),
    "from heads": (
        lambda x, w: shared.from_heads(x, w, ("heads", "embed")),
        lambda x, w: x.transpose(0, 2, 1, 3).reshape(8, 4, 6) @ w,
        lambda: (normal(0, 8, 3, 4, 2), normal(1, 6, 8)),
    ),
}


def value_and_gradients(function):
    return jax.value_and_grad(lambda *arguments: jnp.sin(function(*arguments)).sum(), argnums=(0, 1))


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_and_its_gradients_are_those_of_one_device(name, both):
    ours, theirs, make = PRODUCTS[name]
    expected = value_and_gradients(theirs)(*make())
    # With ZeRO-1 not the parameter is cut but its gradient: over one axis in stages, over two by the compiler.
    zero1 = layout.make(Parallelism(strategy="zero1"), jax.devices()[:4])
    copies = layout.make(Parallelism(strategy="zero1", data=4, fsdp=2))
    for setting in (layout.Layout(), both, zero1, copies):
        got = placed(value_and_gradients(ours), setting, *make())
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, expected)


def test_a_gradient_is_scattered_in_stages_where_there_are_several(both, monkeypatch):
    def sums(setting):
        with setting.use():
            gradient = jax.grad(lambda w, x: shared.product(x, w, ("embed", "mlp")).sum())
            return str(jax.make_jaxpr(gradient)(normal(1, 8, 6), normal(0, 8, 2, 8))).count("reduce_scatter")

    assert sums(both) == 2
    assert sums(layout.make(Parallelism(strategy="zero1"), jax.devices()[:4])) == 2
    assert sums(layout.make(Parallelism(data=2, fsdp=2, tensor=2))) == 0
    monkeypatch.setattr(scatter, "stages", lambda mesh, axis: (4,))
    assert sums(both) == 0


@pytest.mark.parametrize("sizes", [(8,), (2, 4), (2, 2, 2)], ids=str)
def test_rows_of_a_table_that_is_suited_are_the_table_s(sizes, monkeypatch):
    monkeypatch.setattr(scatter, "stages", lambda mesh, axis: sizes)
    table, ids = normal(0, 50, 16), jax.random.randint(jax.random.key(1), (8, 5), 0, 50).at[0, :3].set(7)
    weights = normal(2, 8, 5, 16)

    def loss(take):
        return jax.value_and_grad(lambda table: (take(table) * weights).sum())

    expected = loss(lambda table: table[ids])(table)
    got = placed(loss(lambda table: lookup.take(table, ids, jnp.float32)), layout.make(Parallelism(fsdp=8)), table)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, expected)


def test_a_table_is_suited_on_tpu_where_it_is_large_and_its_width_is_shared():
    axes, bfloat16 = ("vocab", "embed"), jnp.dtype("bfloat16")
    devices = topologies.parse("v5e:4x4").devices()
    with layout.make(Parallelism(fsdp=16), devices).use():
        assert lookup.is_suited((32000, 2048), axes, bfloat16)
        assert not lookup.is_suited((2048, 2048), axes, bfloat16)
    with layout.make(Parallelism(fsdp=8, tensor=2), devices).use():
        assert not lookup.is_suited((32000, 2048), axes, bfloat16)
    with layout.make(Parallelism(fsdp=8)).use():
        assert not lookup.is_suited((32000, 2048), axes, bfloat16)


@pytest.mark.parametrize(
    "topology, sizes",
    [("v5e:4x4", (16,)), ("v5e:4x8", (4, 8)), ("v5e:8x8", (8, 8)), ("v5e:16x16", (16, 16)), ("v5p:4x4x4", (4, 4, 4))],
)
def test_stages_are_the_lines_of_the_torus(topology, sizes):
    devices = topologies.parse(topology).devices()
    assert scatter.stages(layout.make(Parallelism(fsdp=len(devices)), devices).mesh, "fsdp") == sizes


def test_where_there_are_no_lines_there_is_one_stage():
    assert scatter.stages(layout.make(Parallelism(fsdp=8)).mesh, "fsdp") == (8,)
