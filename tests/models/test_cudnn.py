"""cuDNN's packed attention, the custom call carried out here as XLA's cuda_dnn.cc describes it to cuDNN."""

import functools
import json
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.experiment import Parallelism
from t5x_like.models import cudnn
from t5x_like.models.transformer import attention
from t5x_like.parallel import layout

LENGTH, HEADS, WIDTH = 32, 4, 8
# Four rows: several documents and padding, one alone, padding alone, and one that would go on if it were not a new row.
IDS = np.array([[1] * 9 + [2] * 3 + [3] * 14 + [0] * 6, [1] * 32, [0] * 32, [1] * 20 + [2] * 12], np.int32)
POSITIONS = np.array(
    [[*range(9), *range(3), *range(14), *range(6)], [*range(32)], [*range(32)], [*range(20), *range(12)]]
)


def sequences(lengths, offsets, *arrays):
    """Each sequence's part of flat arrays, as ragged offsets and lengths say: (number, [tokens, heads, width] …)."""
    lengths, offsets = lengths.reshape(-1), [each.reshape(-1) for each in offsets]
    for number, tokens in enumerate(lengths):
        if tokens:
            yield (
                number,
                *(
                    x.reshape(-1)[at[number] : at[number] + tokens * math.prod(x.shape[2:])].reshape(
                        tokens, *x.shape[2:]
                    )
                    for x, at in zip(arrays, offsets, strict=True)
                ),
            )


def weights_of(q, k, config):
    """[heads, queries, keys] scores with the keys left out that the description says.

    A group of heads is on its key-value head; a window's length counts the query's own place.
    """
    scores = np.einsum("the,she->hts", q, np.repeat(k, q.shape[1] // k.shape[1], axis=1)) * config["fmha_scale"]
    apart = np.arange(len(q))[:, None] - np.arange(len(k))
    seen = {"CAUSAL": apart >= 0, "NO_MASK": apart == apart}[config["mask_type"]]
    if config["sliding_window_length"]:
        assert config["mask_type"] == "CAUSAL"
        seen = seen & (apart < config["sliding_window_length"])
    return np.where(seen, scores, -np.inf)


def forward(config, segments, q, k, v, lengths, kv_lengths, offsets, kv_offsets):
    b, t, h, _ = q.shape
    assert (lengths == kv_lengths).all()
    mixed, stats = np.full_like(q, np.nan), np.full((b * segments, h, t), np.nan, np.float32)
    at = (offsets, kv_offsets, kv_offsets, offsets)
    for number, q_s, k_s, v_s, mixed_s in sequences(lengths, at, q, k, v, mixed):
        scores = weights_of(q_s, k_s, config)
        stats[number, :, : len(q_s)] = np.log(np.exp(scores).sum(-1))
        weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        mixed_s[:] = np.einsum("hts,she->the", weights, np.repeat(v_s, h // v_s.shape[1], axis=1))
    return mixed.transpose(0, 2, 1, 3), stats


def backward(config, segments, q, k, v, stats, grad, mixed, lengths, kv_lengths, offsets, kv_offsets):
    h, groups = q.shape[2], q.shape[2] // k.shape[2]
    dq, dk, dv = np.full_like(q, np.nan), np.full_like(k, np.nan), np.full_like(v, np.nan)
    wide, narrow = offsets, kv_offsets
    arrays, at = (q, k, v, grad, mixed, dq, dk, dv), (wide, narrow, narrow, wide, wide, wide, narrow, narrow)
    for number, q_s, k_s, v_s, grad_s, mixed_s, dq_s, dk_s, dv_s in sequences(lengths, at, *arrays):
        weights = np.exp(weights_of(q_s, k_s, config) - stats[number, :, : len(q_s), None])
        grad_weights = np.einsum("the,she->hts", grad_s, np.repeat(v_s, groups, axis=1))
        grad_scores = weights * (grad_weights - (grad_s * mixed_s).sum(-1).T[..., None]) * config["fmha_scale"]
        dq_s[:] = np.einsum("hts,she->the", grad_scores, np.repeat(k_s, groups, axis=1))
        dk_s[:] = np.einsum("hts,the->she", grad_scores, q_s).reshape(len(q_s), -1, groups, q_s.shape[2]).sum(2)
        dv_s[:] = np.einsum("hts,the->she", weights, grad_s).reshape(len(q_s), -1, groups, q_s.shape[2]).sum(2)
    assert h == groups * k.shape[2]
    return tuple(x.transpose(0, 2, 1, 3) for x in (dq, dk, dv))


@pytest.fixture
def custom_calls(monkeypatch):
    """Carries custom calls to cuDNN out on the host; gives the list of those that are made while tracing."""
    made = []

    def ffi_call(target, results, *, output_layouts, custom_call_api_version, legacy_backend_config):
        config = json.loads(legacy_backend_config)["cudnn_fmha_backend_config"]
        made.append((target, config, results, output_layouts))
        assert custom_call_api_version == 2 and results[-1].shape == (0,)
        work = {"__cudnn$fmhaSoftmax": forward, "__cudnn$fmhaSoftmaxBackward": backward}[target]

        def run(*operands):
            operands = [np.asarray(x) for x in operands]
            found = work(config, config["max_seg_per_batch"], *operands)
            return *(x.astype(r.dtype) for x, r in zip(found, results, strict=False)), np.zeros(0, np.uint8)

        return lambda *operands: jax.pure_callback(run, results, *operands)

    monkeypatch.setattr(jax.ffi, "ffi_call", ffi_call)
    monkeypatch.setitem(cudnn._DTYPES, "float32", "F32")
    monkeypatch.setattr(cudnn, "LEAST_SEGMENTS", 4)
    return made


def inputs(kv_heads, rows=4):
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = ((rows, LENGTH, heads, WIDTH) for heads in (HEADS, kv_heads, kv_heads, HEADS))
    return [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]


def both(function, q, k, v, grad):
    """What a function gives, and its gradients."""
    mixed, pull = jax.vjp(function, q, k, v)
    return mixed, *pull(grad)


def reference(q, k, v, causal=True, window=0):
    apart = POSITIONS[:, :, None] - POSITIONS[:, None]
    mask = attention.same_segment(IDS, IDS) & attention.within(apart, causal=causal, window=window)
    return attention.attend(q, k, v, mask)


def assert_same(function, kv_heads, **seen):
    expected = both(functools.partial(reference, **seen), *inputs(kv_heads))
    for a, b in zip(both(function, *inputs(kv_heads)), expected, strict=True):
        np.testing.assert_allclose(a, b, atol=3e-6)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_packed_rows_are_sequences_that_cudnn_finds(custom_calls, kv_heads):
    assert_same(jax.jit(lambda q, k, v: cudnn.attention(q, k, v, cudnn.runs(jnp.asarray(IDS)))), kv_heads)
    assert {target for target, *_ in custom_calls} == {"__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"}
    for _, config, *_ in custom_calls:
        assert config["mask_type"] == "CAUSAL" and config["max_seg_per_batch"] == 4


@pytest.mark.parametrize("room", [4, 1])
@pytest.mark.parametrize("seen", [{"causal": False}, {"window": 5}])
def test_all_of_a_segment_or_a_window_is_seen_with_the_kernel_and_without(custom_calls, monkeypatch, seen, room):
    monkeypatch.setattr(cudnn, "LEAST_SEGMENTS", room)
    monkeypatch.setattr(cudnn, "BLOCK", 8)
    assert_same(jax.jit(lambda q, k, v: cudnn.attention(q, k, v, cudnn.runs(jnp.asarray(IDS)), **seen)), 2, **seen)
    masks = {(config["mask_type"], config["sliding_window_length"]) for _, config, *_ in custom_calls}
    assert masks == ({("NO_MASK", 0)} if "causal" in seen else {("CAUSAL", 6)})


def test_over_a_mesh_each_device_has_its_own_rows_and_heads(custom_calls):
    with layout.make(Parallelism(data=4, tensor=2), jax.devices()[:8]).use():
        assert_same(jax.jit(lambda q, k, v: cudnn.attention(q, k, v, cudnn.runs(jnp.asarray(IDS)))), 2)
    assert {results[0].shape for _, _, results, _ in custom_calls} == {(1, 2, LENGTH, WIDTH)}


def test_where_there_is_no_room_for_the_segments_the_same_is_computed_without(custom_calls, monkeypatch):
    ran = []
    monkeypatch.setitem(globals(), "forward", lambda *_: ran.append(1))
    monkeypatch.setitem(globals(), "backward", lambda *_: ran.append(1))
    monkeypatch.setattr(cudnn, "LEAST_SEGMENTS", 1)  # four, and there are eight
    monkeypatch.setattr(cudnn, "BLOCK", 8)
    assert_same(jax.jit(lambda q, k, v: cudnn.attention(q, k, v, cudnn.runs(jnp.asarray(IDS)))), 2)
    assert len(custom_calls) > 0, "the kernel is there, and is not run"
    assert not ran


def test_offsets_that_are_no_32_bit_numbers_leave_the_kernel_out(custom_calls, monkeypatch):
    monkeypatch.setattr(cudnn, "_is_too_large", lambda q: True)
    assert_same(lambda q, k, v: cudnn.attention(q, k, v, cudnn.runs(jnp.asarray(IDS))), 4)
    assert not custom_calls


def test_runs_share_the_room_of_a_device():
    """One row of many documents takes the room that another leaves."""
    ids = np.stack([np.arange(1, 33), np.full(32, 1)]).astype(np.int32)
    found = cudnn.runs(jnp.asarray(ids))
    assert found.lengths_bn.shape == (2, cudnn.LEAST_SEGMENTS) and cudnn.segments(4096) == 32
    assert int(found.count_b[0]) == 33
    assert found.lengths_bn.reshape(-1)[:32].tolist() == [1] * 32
    offsets = np.asarray(found.offsets_bm).reshape(-1)
    assert offsets[:33].tolist() == list(range(33)) and (offsets[33:] == 64).all()


@pytest.mark.parametrize(
    "kind, options, can",
    [
        ("NVIDIA H200", {}, True),
        ("NVIDIA H100 80GB HBM3", {"head_dim": 128}, True),
        ("NVIDIA H100 80GB HBM3", {"dtype": "float32"}, False),
        ("NVIDIA H100 80GB HBM3", {"head_dim": 100}, False),
        ("NVIDIA A100-SXM4-80GB", {}, False),
        ("NVIDIA GeForce RTX 4090", {}, False),
        ("NVIDIA H200", {"window": 100}, True),
        ("NVIDIA H200", {"causal": False}, True),
        ("NVIDIA H200", {"causal": False, "window": 100}, False),
        ("NVIDIA H200", {"soft_cap": 50.0}, False),
    ],
)
def test_which_devices_have_it(monkeypatch, kind, options, can):
    class Device:
        platform, device_kind = "gpu", kind

    monkeypatch.setattr(jax, "devices", lambda: [Device()])
    values = {"dtype": "bfloat16", "head_dim": 64, "scaled_attention": True, "window": 0, "soft_cap": 0.0, **options}
    causal = values.pop("causal", True)
    assert cudnn.can_attend(SimpleNamespace(**values), causal=causal) is can


@pytest.mark.parametrize("saved, runs", [(("qkv", "attention"), 2), (("qkv",), 3)])
def test_a_remat_policy_that_saves_the_residual_spares_the_forward_kernel(custom_calls, saved, runs):
    """One conditional holds the forward kernel and one the backward one; a third is the forward one again."""
    policy = jax.checkpoint_policies.save_only_these_names(*saved)
    loss = jax.checkpoint(lambda q, k, v: cudnn.attention(q, k, v, cudnn.runs(jnp.asarray(IDS))).sum(), policy=policy)
    text = jax.jit(jax.value_and_grad(loss)).lower(*inputs(2)[:3]).as_text()
    assert text.count("stablehlo.case") == runs
