"""Reading compiled programs: on texts written here, and on what this machine's own compiler makes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from t5x_like.parallel import topologies
from t5x_like.parallel.compiled import collectives, hlo, kernels, loops, memory, products, times

MESH = {"data": 2, "fsdp": 4}

TEXT = """HloModule step, is_scheduled=true, input_output_alias={ {0}: (0, {}, may-alias) }

%fused_start (p: bf16[8,16]) -> (bf16[8,16], bf16[8,64]) {
  %p = bf16[8,16]{1,0} parameter(0)
  %all-gather.1 = bf16[8,64]{1,0} all-gather(%p), channel_id=1, replica_groups=[2,4]<=[8], dimensions={1}, \
frontend_attributes={chain_id="0"}
  ROOT %start = (bf16[8,16]{1,0}, bf16[8,64]{1,0}) custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%fused_middle (q: bf16[8,16], x: f32[64,32]) -> (f32[64,64], bf16[8,64]) {
  %q = bf16[8,16]{1,0} parameter(0)
  %x = f32[64,32]{1,0} parameter(1)
  %dot.1 = f32[64,64]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={1}
  %all-gather.2 = bf16[8,64]{1,0} all-gather(%q), channel_id=1, replica_groups=[2,4]<=[8], dimensions={1}, \
frontend_attributes={chain_id="0"}
  ROOT %both = (f32[64,64]{1,0}, bf16[8,64]{1,0}) tuple(%dot.1, %all-gather.2)
}

%body (state: (s32[], bf16[8,16], f32[64,32], f32[5,64,64])) -> (s32[], bf16[8,16], f32[64,32], f32[5,64,64]) {
  %state = (s32[], bf16[8,16]{1,0}, f32[64,32]{1,0}, f32[5,64,64]{2,1,0}) parameter(0)
  %turn = s32[] get-tuple-element(%state), index=0
  %shard = bf16[8,16]{1,0} get-tuple-element(%state), index=1
  %matrix = f32[64,32]{1,0} get-tuple-element(%state), index=2
  %kept = f32[5,64,64]{2,1,0} get-tuple-element(%state), index=3
  %async-collective-start = (bf16[8,16]{1,0}, bf16[8,64]{1,0}) fusion(%shard), kind=kCustom, calls=%fused_start
  %carried = bf16[8,16]{1,0} get-tuple-element(%async-collective-start), index=0
  %fusion.1 = (f32[64,64]{1,0}, bf16[8,64]{1,0}) fusion(%carried, %matrix), kind=kOutput, calls=%fused_middle, \
metadata={op_name="jit(step)/jvp()/dot"}, backend_config={"window_config":{"estimated_cycles":"3000"}}
  %whole = bf16[8,64]{1,0} get-tuple-element(%fusion.1), index=1
  %async-collective-done = bf16[8,64]{1,0} fusion(%whole), kind=kCustom, calls=%fused_done
  %dot.2 = f32[64,64]{1,0} get-tuple-element(%fusion.1), index=0
  %all-reduce.1 = f32[64,64]{1,0} all-reduce(%dot.2), replica_groups={{0,4},{1,5},{2,6},{3,7}}, to_apply=%add
  %written = f32[5,64,64]{2,1,0} custom-call(%kept, %all-reduce.1, %turn), custom_call_target="write"
  %one = s32[] constant(2)
  %next = s32[] add(%turn, %one)
  ROOT %result = (s32[], bf16[8,16]{1,0}, f32[64,32]{1,0}, f32[5,64,64]{2,1,0}) tuple(%next, %shard, %matrix, %written)
}

%fused_done (r: bf16[8,64]) -> bf16[8,64] {
  %r = bf16[8,64]{1,0} parameter(0)
  ROOT %done = bf16[8,64]{1,0} custom-call(%r), custom_call_target="AsyncCollectiveDone"
}

%condition (state: (s32[], bf16[8,16], f32[64,32], f32[5,64,64])) -> pred[] {
  %state.1 = (s32[], bf16[8,16]{1,0}, f32[64,32]{1,0}, f32[5,64,64]{2,1,0}) parameter(0)
  %turn.1 = s32[] get-tuple-element(%state.1), index=0
  %bound = s32[] constant(11)
  ROOT %less = pred[] compare(%turn.1, %bound), direction=LT
}

ENTRY %main (a: bf16[8,16], b: f32[64,32]) -> f32[5,64,64] {
  %a = bf16[8,16]{1,0} parameter(0)
  %b = f32[64,32]{1,0} parameter(1)
  %zero = s32[] constant(1)
  %empty = f32[5,64,64]{2,1,0} custom-call(), custom_call_target="AllocateBuffer"
  %first = (s32[], bf16[8,16]{1,0}, f32[64,32]{1,0}, f32[5,64,64]{2,1,0}) tuple(%zero, %a, %b, %empty)
  %while.1 = (s32[], bf16[8,16]{1,0}, f32[64,32]{1,0}, f32[5,64,64]{2,1,0}) while(%first), condition=%condition, \
body=%body, metadata={op_name="jit(step)/jvp()/while"}
  ROOT %out = f32[5,64,64]{2,1,0} get-tuple-element(%while.1), index=3
}
"""


@pytest.fixture(scope="module")
def module():
    return hlo.parse(TEXT)


def test_a_loop_turns_by_its_start_its_step_and_its_bound(module):
    assert loops.executions(module)["body"] == 5  # 1, 3, 5, 7, 9
    assert loops.executions(module)["fused_middle"] == 5
    assert [computation.name for computation in loops.scheduled(module)] == ["main", "body"]


def test_what_xla_says_of_a_loops_turns_comes_first():
    known = 'condition=%condition, backend_config={"known_trip_count":{"n":"7"}}, '
    said = hlo.parse(TEXT.replace("condition=%condition, ", known, 1))
    assert loops.executions(said)["body"] == 7


def test_a_chain_of_fusions_is_one_collective_and_hides_behind_its_products(module):
    reduced, gathered = collectives.collectives(module, MESH)
    assert (gathered.kind, gathered.axis, gathered.count, gathered.asynchronous) == ("all-gather", "fsdp", 5, True)
    assert gathered.bytes == 5 * 8 * 64 * 2 and gathered.hidden_cycles == 3000
    assert (reduced.kind, reduced.axis, reduced.count, reduced.asynchronous) == ("all-reduce", "data", 5, False)
    assert reduced.bytes == 5 * 64 * 64 * 4
    assert collectives.gather_overlap([reduced, gathered]) == 1.0


def test_without_work_between_its_ends_a_collective_hides_behind_nothing():
    bare = hlo.parse(TEXT.replace('"estimated_cycles":"3000"', '"estimated_cycles":"0"'))
    gathered = collectives.collectives(bare, MESH)[1]
    assert not gathered.asynchronous
    assert collectives.gather_overlap([gathered]) == 0.0


def test_cycles_products_and_what_loops_write_count_once_a_turn(module):
    moved = collectives.collectives(module, MESH)
    spent = times.estimate(module, topologies.parse("v5e:2x4"), moved, [])
    assert spent.scheduled == pytest.approx(5 * 3000 / 1.5e9)
    assert spent.exposed_collectives == pytest.approx(moved[0].bytes / 200e9)  # a ring of two: each sends the whole
    assert spent.latency == moved[0].count * 1e-6  # to the neighbour
    assert spent.total == spent.scheduled + spent.exposed_collectives + spent.latency
    assert products.flops(module) == 5 * 2 * 64 * 64 * 32
    assert memory.stacked_bytes(module) == {"activations": 5 * 64 * 64 * 4, "gradients": 0}
    backward = hlo.parse(TEXT.replace("jit(step)/jvp()/while", "jit(step)/transpose(jvp())/while"))
    assert memory.stacked_bytes(backward) == {"activations": 0, "gradients": 5 * 64 * 64 * 4}


def test_arrays_that_are_whole_are_named():
    text = TEXT.replace("f32[64,64]{1,0} all-reduce(", "f32[64,1,48]{2,1,0} all-reduce(")
    found = memory.oversized(hlo.parse(text), vocab=64, embed=48, length=1000)
    assert [(item.rule, item.shape, item.where) for item in found] == [
        ("[vocab, embed]", "f32[64,1,48]", "all-reduce.1")
    ]
    found = memory.oversized(hlo.parse(TEXT), vocab=1, embed=2, length=64)
    assert {item.rule for item in found} == {"[length, length]"}
    assert {item.shape for item in found} == {"f32[5,64,64]", "f32[64,64]"}
    # Of rows as long as the model is wide, states that are kept of each layer are no mask.
    states = TEXT.replace("f32[5,64,64]", "f32[5,2,64,64]")
    rules = {"vocab": 1, "embed": 64, "length": 64}
    assert {item.shape for item in memory.oversized(hlo.parse(states), **rules, stacks=[(5,)])} == {"f32[64,64]"}
    assert "f32[5,2,64,64]" in {item.shape for item in memory.oversized(hlo.parse(states), **rules, stacks=[(4,)])}
    # A parameter of that shape that is gathered is no mask.
    found = memory.oversized(hlo.parse(TEXT), vocab=1, embed=2, length=64, allowed=[(64, 64)])
    assert {item.shape for item in found} == {"f32[5,64,64]"}


@pytest.mark.parametrize(
    "attributes, groups, axes",
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}, x", [[0, 1, 2, 3], [4, 5, 6, 7]], ["fsdp"]),
        ("replica_groups=[2,4]<=[8], x", [[0, 1, 2, 3], [4, 5, 6, 7]], ["fsdp"]),
        ("replica_groups=[4,2]<=[2,4]T(1,0), x", [[0, 4], [1, 5], [2, 6], [3, 7]], ["data"]),
        ("replica_groups=[1,8]<=[8], x", [[0, 1, 2, 3, 4, 5, 6, 7]], ["data", "fsdp"]),
        ("replica_groups={}, x", [[0, 1, 2, 3, 4, 5, 6, 7]], ["data", "fsdp"]),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}, x", [[0, 4], [1, 5], [2, 6], [3, 7]], ["data"]),
        ("replica_groups=mesh['a'=2,'b'=4] {'a','b'}, x", [[0, 1, 2, 3, 4, 5, 6, 7]], ["data", "fsdp"]),
        ("replica_groups=mesh['a'=8] {'a':(2)4}, x", [[0, 1, 2, 3], [4, 5, 6, 7]], ["fsdp"]),
        ("source_target_pairs={{0,1},{1,0}}, x", [[0, 1], [1, 0]], ["fsdp"]),
        ("replica_groups={{0},{1},{2},{3},{4},{5},{6},{7}}, x", [[n] for n in range(8)], []),
    ],
)
def test_groups_of_devices_in_every_spelling_are_mesh_axes(attributes, groups, axes):
    found = collectives.participants(attributes, MESH)
    np.testing.assert_array_equal(found, groups)
    assert collectives.axes_of(found, MESH) == axes


def test_a_kernel_is_counted_by_its_name_and_shapes():
    call = """HloModule step

ENTRY %main (q: bf16[2,4,256,64], k: bf16[2,4,256,64]) -> bf16[2,4,256,64] {
  %q = bf16[2,4,256,64]{3,2,1,0} parameter(0)
  %k = bf16[2,4,256,64]{3,2,1,0} parameter(1)
  ROOT %splash = bf16[2,4,256,64]{3,2,1,0} custom-call(%q, %k, %k), custom_call_target="tpu_custom_call", \
frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 128}"
}}, metadata={op_name="jit(step)/splash_mha_fwd/pallas_call"}
}
"""
    (kernel,) = kernels.kernels(hlo.parse(call), visible=kernels.Visible())
    assert kernel.name == "splash_mha_fwd" and kernel.forward and kernel.attention and kernel.count == 1
    assert kernel.flops == 2 * 2 * (2 * 4 * 256 * 256 * 64) / 2
    assert kernel.blocks == 3 / 4  # of four blocks, three are not above the diagonal
    assert kernel.visited_flops == kernel.flops * 3 / 2
    longer = call.replace('128}"', '128, \\"block_kv\\": 256}"')
    assert kernels.kernels(hlo.parse(longer), visible=kernels.Visible())[0].blocks == 1  # all keys are one block
    (dkv,) = kernels.kernels(hlo.parse(call.replace("_fwd", "_dkv")), visible=kernels.Visible(causal=False))
    assert dkv.flops == 4 * 2 * (2 * 4 * 256 * 256 * 64) and not dkv.forward
    # One that gives three gradients computes all five products; so this kernel is called whatever it computes.
    head = "ROOT %splash = bf16[2,4,256,64]{3,2,1,0} custom-call"
    three = (
        "(f32[2,256,64]{2,1,0}, bf16[2,1,4,256,64]{4,3,2,1,0}, bf16[2,4,256,64]{3,2,1,0}, bf16[2,4,256,64]{3,2,1,0})"
    )
    for gradients, products_of_it in ((three, 5), (three.replace("bf16[2,1,4,256,64]{4,3,2,1,0}, ", ""), 4)):
        text = call.replace("_fwd", "_dkv").replace(head, f"ROOT %splash = {gradients} custom-call")
        (backward,) = kernels.kernels(hlo.parse(text), visible=kernels.Visible())
        assert backward.flops == products_of_it * (2 * 4 * 256 * 256 * 64)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [0, 1, 5, 16, 40])
def test_what_a_kernel_visits_is_counted_pair_by_pair(causal, window):
    length, queries, keys = 48, 8, 16
    apart = np.arange(length)[:, None] - np.arange(length)
    seen = (apart >= 0 if causal else apart == apart) & (np.abs(apart) <= (window or length))
    blocks = seen.reshape(length // queries, queries, length // keys, keys).any((1, 3))
    visible = kernels.Visible(causal, window)
    sizes = f'"block_q\\": {queries}, "block_kv\\": {keys}'
    assert kernels._blocks(sizes, length, True, visible) == blocks.mean()
    # A causal mask counts as half of the pairs, though the diagonal is whole.
    assert visible.share(length) * length**2 == pytest.approx(seen.sum(), abs=length)


@pytest.mark.parametrize(
    "operands, result",
    [
        ("%x, %w", "bf16[64,32]"),  # rows by each group's matrix
        ("%y, %w", "bf16[64,16]"),  # the rows' gradient
        ("%x, %y", "bf16[4,16,32]"),  # the matrices' gradient
    ],
)
def test_grouped_products_are_of_the_rows_in_groups(operands, result):
    call = f"""HloModule grouped

ENTRY %main (x: bf16[64,16], y: bf16[64,32], w: bf16[4,16,32], n: s32[5]) -> {result} {{
  %x = bf16[64,16]{{1,0}} parameter(0)
  %y = bf16[64,32]{{1,0}} parameter(1)
  %w = bf16[4,16,32]{{2,1,0}} parameter(2)
  %n = s32[5]{{0}} parameter(3)
  ROOT %ragged-dot-none.3 = {result} custom-call(%n, {operands}), custom_call_target="tpu_custom_call"
}}
"""
    (kernel,) = kernels.kernels(hlo.parse(call), visible=kernels.Visible(), grouped_share=0.25)
    assert kernel.name == "ragged-dot-none" and not kernel.attention
    assert kernel.flops == 0.25 * 2 * 64 * 16 * 32


# --- What a compiler made -------------------------------------------------------------------------------------------


def test_products_are_those_that_were_asked_for():
    def step(x, kernels):
        def body(x, kernel):
            return jnp.tanh(x @ kernel), None

        x, _ = jax.lax.scan(body, x, kernels)
        return jnp.einsum("bij,bkj->bik", x[None], x[None] * 2)

    arguments = jnp.zeros((16, 32)), jnp.zeros((7, 32, 32))
    read = hlo.parse(jax.jit(step).lower(*arguments).compile().as_text())
    assert products.flops(read) == 2 * (7 * 16 * 32 * 32 + 16 * 16 * 32)
    assert 7 in loops.executions(read).values()


@pytest.mark.parametrize(
    "attributes, left, right, result, flops",
    [
        # A plain product as a convolution.
        ("dim_labels=bf_io->bf", (8, 16), (16, 4), (8, 4), 2 * 8 * 16 * 4),
        # 3 × 3 over 5 × 5 with a border of one: 13 of the 15 places along each side meet an input.
        (
            "window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f",
            (1, 5, 5, 2),
            (3, 3, 2, 4),
            (1, 5, 5, 4),
            2 * 13 * 13 * 2 * 4,
        ),
        # A batch of 4 products, written as a dimension that is dilated so that only equal ones meet.
        (
            "window={size=4 stride=3 pad=0_0 lhs_dilate=4}, dim_labels=0bf_0io->0bf",
            (4, 8, 16),
            (4, 16, 2),
            (4, 8, 2),
            2 * 4 * 8 * 16 * 2,
        ),
    ],
)
def test_a_convolution_counts_what_is_not_padding(attributes, left, right, result, flops):
    text = (
        f"HloModule step\n\nENTRY %main (a: f32[1]) -> f32[1] {{\n"
        f"  %a = f32[{','.join(map(str, left))}]{{0}} parameter(0)\n"
        f"  %b = f32[{','.join(map(str, right))}]{{0}} parameter(1)\n"
        f"  ROOT %c = f32[{','.join(map(str, result))}]{{0}} convolution(%a, %b), {attributes}\n}}\n"
    )
    assert products.flops(hlo.parse(text)) == flops


def test_collectives_of_a_program_over_this_machines_devices():
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)

    def step(x, kernel):
        return jnp.sum(jax.lax.with_sharding_constraint(x @ kernel, NamedSharding(mesh, P("data", None))))

    x = jax.ShapeDtypeStruct((16, 32), jnp.float32, sharding=NamedSharding(mesh, P("data", None)))
    kernel = jax.ShapeDtypeStruct((32, 64), jnp.float32, sharding=NamedSharding(mesh, P("fsdp", None)))
    read = hlo.parse(jax.jit(step).lower(x, kernel).compile().as_text())
    found = collectives.collectives(read, dict(mesh.shape))
    assert {c.axis for c in found if c.bytes > 4} == {"fsdp"}
    assert {c.axis for c in found if c.bytes == 4} == {"data"}  # the sum


def test_state_is_counted_by_what_one_device_holds():
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    split = jax.ShapeDtypeStruct((8, 6), jnp.float32, sharding=NamedSharding(mesh, P("fsdp", None)))
    whole = jax.ShapeDtypeStruct((8, 6), jnp.bfloat16, sharding=NamedSharding(mesh, P()))
    assert memory.state_bytes({"a": split, "b": [whole]}) == 2 * 6 * 4 + 8 * 6 * 2


def test_a_branch_that_hardly_ever_runs_is_not_counted():
    def step(x):
        def named():
            with jax.named_scope(loops.SELDOM):
                return jnp.tanh(x @ x) @ x

        return jax.lax.cond(x.sum() > 0, named, lambda: x @ x)

    text = jax.jit(jax.grad(lambda x: step(x).sum())).lower(jnp.ones((16, 16))).compile().as_text()
    assert "conditional(" in text
    one = 2 * 16**3
    assert products.flops(hlo.parse(text)) in (2 * one, 3 * one)  # with or without the value itself
    assert products.flops(hlo.parse(text.replace(loops.SELDOM, "often"))) > 4 * one


def test_what_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.parse("nothing\n")
