"""Kinds of parts that sketches add to a transformer, for the time of a test."""

import contextlib

from t5x_like import registry

KINDS = {
    "attention": {"relative_keys": "objectives.sketches.relative_keys:RelativeKeys"},
    "embeddings": {"frames": "objectives.sketches.frames:Frames"},
    "feed_forward": {"balanced_experts": "objectives.sketches.balanced_experts:BalancedExperts"},
}


@contextlib.contextmanager
def registered():
    """The registry with these kinds in it."""
    for kind, targets in KINDS.items():
        registry._TABLE[kind].update(targets)
    try:
        yield
    finally:
        for kind, targets in KINDS.items():
            for name in targets:
                del registry._TABLE[kind][name]
