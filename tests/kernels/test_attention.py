"""The choice of an attention backend."""

import dataclasses
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.kernels import attention as backends
from t5x_like.kernels import splash
from t5x_like.kernels.attention import AttentionSpec, choose, explain
from t5x_like.parallel import layout

SPEC = AttentionSpec(
    queries=256, keys=256, heads=4, kv_heads=2, head_dim=64, dtype="bfloat16", scale=0.125, causal=True, packed=True
)
BOUND = {"documents_per_row": 16}


def place(monkeypatch, platform, kind="NVIDIA H200"):
    """A device of a platform in place of the ones here."""

    class Device:
        device_kind = kind

    Device.platform = platform
    monkeypatch.setattr(jax, "devices", lambda: [Device()])
    monkeypatch.setattr(jax, "default_backend", lambda: platform)


@pytest.mark.parametrize(
    "platform, changed, name",
    [
        ("cpu", {}, "xla"),
        ("cpu", BOUND, "xla"),
        ("gpu", {}, "xla"),
        ("gpu", BOUND, "cudnn"),
        ("gpu", {**BOUND, "bias": True}, "xla"),
        ("tpu", {}, "splash"),
        ("tpu", {"window": 10, "soft_cap": 3.0}, "splash"),
        ("tpu", {"prefix": 4}, "xla"),
        ("tpu", {"queries": 200, "keys": 200}, "xla"),
        ("tpu", {"bias": True}, "xla"),
        ("tpu", {"packed": False, "mask": True}, "xla"),
    ],
)
def test_the_first_backend_that_supports_a_call_is_chosen(monkeypatch, platform, changed, name):
    place(monkeypatch, platform)
    spec = dataclasses.replace(SPEC, **changed)
    assert choose(spec).name == name
    found = explain(spec)
    assert [each for each, _ in found] == ["ring", "splash", "cudnn", "xla"]
    assert next(each for each, reason in found if not reason) == name


def test_the_choice_is_logged_once_for_a_call_with_what_was_passed_over(caplog):
    spec = dataclasses.replace(SPEC, queries=128, keys=128, head_dim=24)
    with caplog.at_level(logging.INFO, logger=backends.__name__):
        for _ in range(3):
            choose(spec)
        choose(dataclasses.replace(spec, head_dim=40))
    assert len(caplog.records) == 2
    said = caplog.records[0].getMessage()
    assert said.startswith("attention by xla on cpu: ") and "head_dim=24" in said
    assert "not splash: runs on TPUs only; not cudnn: runs on NVIDIA GPUs only" in said


def test_no_backend_at_all_is_an_error_with_every_reason(monkeypatch):
    monkeypatch.setattr(backends, "BACKENDS", (splash.Splash(),))
    with pytest.raises(ValueError, match="not splash: runs on TPUs only"):
        choose(SPEC)


def test_a_prepared_call_passes_through_a_compiled_function():
    """Its arrays are leaves; specification and backend belong to the structure."""
    spec = dataclasses.replace(SPEC, queries=8, keys=8, head_dim=4, dtype="float32", scale=0.5)
    with layout.Layout().use():
        prepared = backends.packed(spec, jnp.ones((2, 8), jnp.int32), jnp.arange(8)[None])
    q, k, v = (jax.random.normal(jax.random.key(n), (2, 8, heads, 4)) for n, heads in enumerate((4, 2, 2)))
    (mask,) = jax.tree.leaves(prepared)
    assert mask.shape == (2, 8, 8) or mask.shape == (1, 8, 8)
    got = jax.jit(lambda prepared: prepared.attend(q, k, v))(prepared)
    np.testing.assert_allclose(got, prepared.attend(q, k, v), atol=1e-6)
    np.testing.assert_array_equal(prepared.by_row().again().attend(q, k, v), prepared.attend(q, k, v))
