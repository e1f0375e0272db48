"""cuDNN's packed attention, the custom call carried out here as XLA's cuda_dnn.cc describes it to cuDNN."""

import dataclasses
import functools
import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.kernels import cudnn, xla
from t5x_like.kernels.attention import AttentionSpec
from t5x_like.parallel import layout
from t5x_like.parallelism import Parallelism

LENGTH, HEADS, WIDTH, DOCUMENTS = 32, 4, 8, 3
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
    mask = xla.same_segment(IDS, IDS) & xla.within(apart, causal=causal, window=window)
    return xla.attend(q, k, v, mask)


def assert_same(function, kv_heads, **seen):
    expected = both(functools.partial(reference, **seen), *inputs(kv_heads))
    for a, b in zip(both(function, *inputs(kv_heads)), expected, strict=True):
        np.testing.assert_allclose(a, b, atol=3e-6)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_packed_rows_are_sequences_that_cudnn_finds(custom_calls, kv_heads):
    assert_same(jax.jit(lambda q, k, v: cudnn.attention(q, k, v, cudnn.runs(jnp.asarray(IDS), DOCUMENTS))), kv_heads)
    assert {target for target, *_ in custom_calls} == {"__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"}
    for _, config, *_ in custom_calls:
        assert config["mask_type"] == "CAUSAL" and config["max_seg_per_batch"] == 4


@pytest.mark.parametrize("seen", [{"causal": False}, {"window": 5}])
def test_all_of_a_segment_or_a_window_is_seen(custom_calls, seen):
    assert_same(
        jax.jit(lambda q, k, v: cudnn.attention(q, k, v, cudnn.runs(jnp.asarray(IDS), DOCUMENTS), **seen)), 2, **seen
    )
    masks = {(config["mask_type"], config["sliding_window_length"]) for _, config, *_ in custom_calls}
    assert masks == ({("NO_MASK", 0)} if "causal" in seen else {("CAUSAL", 6)})


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_deterministic_layout_asks_for_the_kernel_whose_sums_have_an_order(custom_calls, deterministic):
    with layout.Layout(deterministic=deterministic).use():
        assert_same(jax.jit(lambda q, k, v: cudnn.attention(q, k, v, cudnn.runs(jnp.asarray(IDS), DOCUMENTS))), 2)
    assert {config.get("force_deterministic") for _, config, *_ in custom_calls} == {True if deterministic else None}


def test_the_products_are_multiplied_by_the_scale_that_is_given(custom_calls):
    mask = cudnn.runs(jnp.asarray(IDS), DOCUMENTS)
    q, k, v, _ = inputs(2)
    np.testing.assert_allclose(
        cudnn.attention(q, k, v, mask, scale=0.3), cudnn.attention(q * 0.3 * WIDTH**0.5, k, v, mask), atol=3e-6
    )


def test_over_a_mesh_each_device_has_its_own_rows_and_heads(custom_calls):
    with layout.make(Parallelism(data=4, tensor=2), jax.devices()[:8]).use():
        assert_same(jax.jit(lambda q, k, v: cudnn.attention(q, k, v, cudnn.runs(jnp.asarray(IDS), DOCUMENTS))), 2)
    assert {results[0].shape for _, _, results, _ in custom_calls} == {(1, 2, LENGTH, WIDTH)}


def test_each_row_has_room_for_its_documents_and_for_padding():
    ids = np.stack([[*range(1, 4), *[0] * 29], [1] * 30 + [2, 0], [1] * 32]).astype(np.int32)
    found = cudnn.runs(jnp.asarray(ids), DOCUMENTS)
    assert found.lengths_bn.shape == (3, DOCUMENTS + 1)
    assert found.lengths_bn.reshape(-1).tolist() == [1, 1, 1, 29, 30, 1, 1, 32, 0, 0, 0, 0]
    offsets = np.asarray(found.offsets_bm).reshape(-1)
    assert offsets[:8].tolist() == [0, 1, 2, 3, 32, 62, 63, 64] and (offsets[8:] == 96).all()


SPEC = AttentionSpec(
    queries=1024,
    keys=1024,
    heads=4,
    kv_heads=4,
    head_dim=64,
    dtype="bfloat16",
    scale=0.125,
    causal=True,
    packed=True,
    rows=8,
    documents_per_row=16,
)


@pytest.mark.parametrize(
    "kind, changed, reason",
    [
        ("NVIDIA H200", {}, ""),
        ("NVIDIA H100 80GB HBM3", {"head_dim": 128}, ""),
        ("NVIDIA H200", {"window": 100}, ""),
        ("NVIDIA H200", {"causal": False}, ""),
        ("NVIDIA H200", {"scale": 1.0}, ""),
        ("NVIDIA H100 80GB HBM3", {"dtype": "float32"}, "not float32; set model.dtype"),
        ("NVIDIA H100 80GB HBM3", {"head_dim": 100}, "not of 100"),
        ("NVIDIA A100-SXM4-80GB", {}, "from Hopper on, not on NVIDIA A100-SXM4-80GB"),
        ("NVIDIA GeForce RTX 4090", {}, "from Hopper on"),
        ("NVIDIA H200", {"causal": False, "window": 100}, "a window only where no later key is seen"),
        ("NVIDIA H200", {"soft_cap": 50.0}, "no soft cap"),
        ("NVIDIA H200", {"bias": True}, "no bias"),
        ("NVIDIA H200", {"prefix": 8}, "a prefix"),
        ("NVIDIA H200", {"packed": False, "mask": True}, "no mask but"),
        ("NVIDIA H200", {"documents_per_row": 0}, "set data.documents_per_row, such as to 16"),
        ("NVIDIA H200", {"rows": 1 << 14}, "raise parallelism.microbatches"),
    ],
)
def test_a_call_that_it_cannot_compute_is_refused_with_the_reason(monkeypatch, kind, changed, reason):
    class Device:
        platform, device_kind = "gpu", kind

    monkeypatch.setattr(jax, "devices", lambda: [Device()])
    said = cudnn.CuDNN().supports(dataclasses.replace(SPEC, **changed))
    assert reason in said if reason else not said, said


def test_it_is_for_gpus():
    assert cudnn.CuDNN().supports(SPEC) == "runs on NVIDIA GPUs only"


@pytest.mark.parametrize("saved, runs", [(("qkv", "attention"), 2), (("qkv",), 3)])
def test_a_remat_policy_that_saves_the_residual_spares_the_forward_kernel(custom_calls, saved, runs):
    policy = jax.checkpoint_policies.save_only_these_names(*saved)
    loss = jax.checkpoint(
        lambda q, k, v: cudnn.attention(q, k, v, cudnn.runs(jnp.asarray(IDS), DOCUMENTS)).sum(), policy=policy
    )
    lowered = jax.jit(jax.value_and_grad(loss)).lower(*inputs(2)[:3])
    # Forward and backward, and the forward kernel again where its residual is not saved.
    assert len(re.findall(r"custom_call @xla_\w*python\w*callback", lowered.as_text())) == runs
