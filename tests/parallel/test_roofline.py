"""A GPU's program, written here as XLA writes it, and how long its instructions take at best."""

import pytest

from t5x_like.parallel import topologies
from t5x_like.parallel.compiled import collectives, hlo, kernels, loops, products, roofline, times
from t5x_like.parallel.compiled.compile_size import compile_size

CHIP = topologies.CHIPS["h200"]
PRODUCT = """backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],\
"rhs_contracting_dimensions":["0"],"lhs_batch_dimensions":[],"rhs_batch_dimensions":[]}}}"""

TEXT = f"""HloModule step, is_scheduled=true

%fused_take (p: bf16[5,64,32], i: s32[]) -> bf16[64,32] {{
  %p = bf16[5,64,32]{{2,1,0}} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  %part = bf16[1,64,32]{{2,1,0}} dynamic-slice(%p, %i, %zero, %zero), dynamic_slice_sizes={{1,64,32}}
  ROOT %flat = bf16[64,32]{{1,0}} bitcast(%part)
}}

%fused_put (stack: bf16[5,64,32], x: bf16[64,32], j: s32[]) -> bf16[5,64,32] {{
  %stack = bf16[5,64,32]{{2,1,0}} parameter(0)
  %x = bf16[64,32]{{1,0}} parameter(1)
  %one = bf16[1,64,32]{{2,1,0}} bitcast(%x)
  %j = s32[] parameter(2)
  %none = s32[] constant(0)
  ROOT %put = bf16[5,64,32]{{2,1,0}} dynamic-update-slice(%stack, %one, %j, %none, %none)
}}

%seldom (s: (bf16[2,128,4,64])) -> bf16[2,128,4,64] {{
  %s = (bf16[2,128,4,64]{{3,2,1,0}}) parameter(0)
  %got = bf16[2,128,4,64]{{3,2,1,0}} get-tuple-element(%s), index=0
  ROOT %slow = bf16[2,128,4,64]{{3,2,1,0}} copy(%got)
}}

%often (s.1: (bf16[2,128,4,64])) -> bf16[2,128,4,64] {{
  %s.1 = (bf16[2,128,4,64]{{3,2,1,0}}) parameter(0)
  %q = bf16[2,128,4,64]{{3,2,1,0}} get-tuple-element(%s.1), index=0
  %fmha = (bf16[2,4,128,64]{{3,1,2,0}}, f32[8,4,128]{{2,1,0}}, u8[0]{{0}}) custom-call(%q, %q, %q), \
custom_call_target="__cudnn$fmhaSoftmax"
  ROOT %mixed = bf16[2,4,128,64]{{3,1,2,0}} get-tuple-element(%fmha), index=0
}}

ENTRY %main (a: bf16[5,64,32], b: bf16[32,16], c: bf16[2,128,4,64], room: pred[]) -> bf16[5,64,32] {{
  %a = bf16[5,64,32]{{2,1,0}} parameter(0)
  %b = bf16[32,16]{{1,0}} parameter(1)
  %c = bf16[2,128,4,64]{{3,2,1,0}} parameter(2)
  %room = pred[] parameter(3)
  %at = s32[] constant(3)
  %take = bf16[64,32]{{1,0}} fusion(%a, %at), kind=kLoop, calls=%fused_take
  %all-gather-start = (bf16[32,16]{{1,0}}, bf16[32,256]{{1,0}}) all-gather-start(%b), replica_groups=[1,16]<=[16], \
dimensions={{1}}
  %given = (bf16[2,128,4,64]{{3,2,1,0}}) tuple(%c)
  %either = bf16[2,128,4,64]{{3,2,1,0}} conditional(%room, %given, %given), true_computation=%often, \
false_computation=%seldom
  %meanwhile = bf16[64,32]{{1,0}} fusion(%a, %at), kind=kLoop, calls=%fused_take
  %all-gather-done = bf16[32,256]{{1,0}} all-gather-done(%all-gather-start)
  %gemm = (bf16[64,256]{{1,0}}, s8[1024]{{0}}) custom-call(%take, %all-gather-done), \
custom_call_target="__cublas$lt$matmul", {PRODUCT}
  %reduce-scatter-start = ((bf16[32,256]{{1,0}}), bf16[2,256]{{1,0}}) reduce-scatter-start(%all-gather-done), \
replica_groups=[2,8]<=[16], dimensions={{0}}, to_apply=%add
  %reduce-scatter-done = bf16[2,256]{{1,0}} reduce-scatter-done(%reduce-scatter-start)
  ROOT %result = bf16[5,64,32]{{2,1,0}} fusion(%a, %meanwhile, %at), kind=kLoop, calls=%fused_put
}}
"""


@pytest.fixture(scope="module")
def module():
    return roofline.annotated(hlo.parse(TEXT), CHIP)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("take", 2 * 64 * 32 * 2 + 4),  # a part is read, and written
        ("result", 2 * 64 * 32 * 2 + 4),  # a part is read, and written into an array that is there
        ("gemm", 2 * (64 * 32 + 32 * 256 + 64 * 256)),  # without cuBLAS's room to work in
    ],
)
def test_what_is_moved(name, expected):
    parsed = hlo.parse(TEXT)
    main = parsed.computations["main"]
    assert roofline.moved_bytes(parsed, main, main.instructions[name]) == expected


def test_a_product_is_counted_wherever_it_is(module):
    assert products.flops(module) == 2 * 64 * 32 * 256


def test_each_instruction_takes_what_it_moves_or_multiplies(module):
    main = module.computations["main"]
    hertz = CHIP.tensor_core_hertz
    assert main.instructions["gemm"].cycles == round(2 * (64 * 32 + 32 * 256 + 64 * 256) / CHIP.hbm_bandwidth * hertz)
    for name in ("all-gather-start", "all-gather-done", "either", "given", "a"):
        assert main.instructions[name].cycles == 0
    wide = TEXT.replace("64,32]", "65536,8192]").replace("64,256]", "65536,8192]")
    large = hlo.parse(wide.replace("32,256]", "8192,8192]"))
    gemm = large.computations["main"].instructions["gemm"]
    assert roofline.seconds(large, large.computations["main"], gemm, CHIP) == pytest.approx(
        2 * 65536 * 8192 * 8192 / CHIP.peak_flops
    )


def test_cudnns_kernel_is_the_attention_of_its_shapes_and_is_counted_once(module):
    (kernel,) = kernels.kernels(module, visible=kernels.Visible())
    assert kernel.attention and kernel.forward and kernel.count == 1
    assert kernel.flops == 2 * 2 * (2 * 4 * 128 * 128 * 64) / 2
    fmha = module.computations["often"].instructions["fmha"]
    assert fmha.cycles == 0 and fmha.kernel_cycles > 0


def test_the_size_of_a_program_counts_equal_products_once(module):
    size = compile_size(module)
    assert size == {
        "instructions": sum(1 for computation in module.computations.values() for _ in computation),
        "fusions": 3,
        "products": 1,
        "distinct_products": 1,
        "conditionals": 1,
        "attention_kernels": 1,
    }
    gemm = next(line for line in TEXT.splitlines() if "%gemm = " in line)
    other = gemm.replace("%gemm", "%again").replace("64,256", "64,128")
    for line, distinct in ((gemm.replace("%gemm", "%again"), 1), (other, 2)):
        longer = compile_size(hlo.parse(TEXT.replace(gemm, f"{gemm.rstrip()}\n{line}")))
        assert (longer["products"], longer["distinct_products"]) == (2, distinct)


def test_both_branches_of_a_conditional_count_as_run(module):
    counts = loops.executions(module)
    assert counts["often"] == counts["seldom"] == 1
    slow = module.computations["seldom"].instructions["slow"]
    spent = times.estimate(module, topologies.parse("h200:8"), [], kernels.kernels(module, visible=kernels.Visible()))
    main = module.computations["main"]
    assert slow.cycles > 0
    assert spent.scheduled == pytest.approx((slow.cycles + sum(i.cycles for i in main)) / CHIP.tensor_core_hertz)


def test_a_collective_is_asynchronous_where_work_is_done_before_it_is_waited_for(module):
    gather, scatter = collectives.collectives(module, {"data": 2, "fsdp": 8}, per_host=8)
    assert (gather.kind, gather.asynchronous, gather.group, gather.hosts) == ("all-gather", True, 16, 2)
    assert gather.bytes == 32 * 256 * 2
    assert gather.hidden_cycles == module.computations["main"].instructions["meanwhile"].cycles
    assert (scatter.kind, scatter.asynchronous, scatter.group, scatter.hosts) == ("reduce-scatter", False, 8, 1)
    assert scatter.axis == "fsdp" and scatter.bytes == 32 * 256 * 2


@pytest.mark.parametrize(
    "kind, group, hosts, seconds",
    [
        ("all-gather", 8, 1, 7 / 8 / 450),  # NVLink alone
        ("all-gather", 16, 2, 15 / 16 / 450),  # eight network cards carry half of it in less time
        ("all-gather", 2, 2, 1 / 2 / 50),  # one card carries half of it
        ("all-reduce", 4, 4, 2 * 3 / 4 / 50),
        ("collective-permute", 2, 2, 1 / 50),
    ],
)
def test_between_hosts_every_gpu_sends_through_its_own_card(kind, group, hosts, seconds):
    moved = collectives.Collective(kind, "data", 10**9, 1, False, 0, group, "bf16[1]", "", hosts)
    assert times.collective_seconds(moved, CHIP) == pytest.approx(seconds)
