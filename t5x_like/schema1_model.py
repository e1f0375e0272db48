"""Migration of the model's options from schema 1, one flat table, to the tree of `models.transformer.config`."""

from collections.abc import Iterator, Mapping
from typing import Any

# Options of schema 1 and where they are now; `STACK` stands for each stack there is.
_MOVED: dict[str, tuple[str, ...]] = {
    "heads": ("STACK.layer.attention.heads",),
    "kv_heads": ("STACK.layer.attention.kv_heads",),
    "head_dim": ("STACK.layer.attention.head_dim",),
    "window": ("STACK.layer.attention.window",),
    "soft_cap": ("STACK.layer.attention.soft_cap",),
    "scaled_attention": ("STACK.layer.attention.scaled",),
    "mlp": ("STACK.layer.feed_forward.hidden",),
    "activation": ("STACK.layer.feed_forward.activation",),
    "gated": ("STACK.layer.feed_forward.gated",),
    "norm": ("STACK.layer.norm.kind",),
    "norm_epsilon": ("STACK.layer.norm.epsilon",),
    "norm_position": ("STACK.layer.norm.position",),
    "embedding_norm": ("STACK.embeddings.norm",),
    "token_types": ("STACK.embeddings.types",),
    "positions": ("STACK.positions.name",),
    "head_soft_cap": ("head.soft_cap",),
}
_OF_POSITIONS = {
    "rope_theta": ("rope", "theta"),
    "relative_buckets": ("relative", "buckets"),
    "relative_distance": ("relative", "distance"),
}
_OF_EXPERTS = {
    "experts": "experts",
    "experts_per_token": "experts_per_token",
    "router_balance_loss": "balance_loss",
    "router_z_loss": "z_loss",
}
_KEPT = (
    "family",
    "size",
    "vocab_size",
    "embed",
    "max_length",
    "dropout",
    "dropout_inside",
    "init_std",
    "embedding_std",
    "residual_init",
    "dtype",
    "quantization",
)
# Other options without which one of schema 1 had no effect, and has no place in the tree.
_BESIDES: dict[str, dict[str, Any]] = {
    **{name: {"positions": kind} for name, (kind, _) in _OF_POSITIONS.items()},
    **{name: {"experts": 1} for name in _OF_EXPERTS if name != "experts"},
    **{name: {"head_transform": False} for name in ("head_transform", "tied_head")},
    "rescaled_head": {"head_transform": False, "tied_head": True},
}
_STACKS = {"bert": ("encoder",), "t5": ("encoder", "decoder"), "t5_1_1": ("encoder", "decoder")}
_POSITIONS = {"bert": "learned", "gpt2": "learned", "gpt3": "learned", "t5": "relative", "t5_1_1": "relative"}


def to_tree(experiment: dict[str, Any]) -> None:
    """Changes an experiment's `model` in place; a bare family's name stays one."""
    if isinstance(experiment.get("model"), dict):
        experiment["model"] = model_tree(experiment["model"])


def model_tree(flat: dict[str, Any]) -> dict[str, Any]:
    """The tree for a flat table, all of it or some of its options."""
    family = flat.get("family", "llama")
    stacks = _stacks(flat, family)
    tree: dict[str, Any] = {name: flat[name] for name in _KEPT if name in flat}
    for name, paths in _MOVED.items():
        for path in paths:
            if name in flat:
                _set_all(tree, stacks, path, flat[name])
    if "bias" in flat:
        for part in ("attention", "norm") if flat.get("experts") else ("attention", "feed_forward", "norm"):
            _set_all(tree, stacks, f"STACK.layer.{part}.bias", flat["bias"])
    positions = flat.get("positions", _POSITIONS.get(family, "rope"))
    for name, (kind, option) in _OF_POSITIONS.items():
        if name in flat and positions == kind:
            _set_all(tree, stacks, f"STACK.positions.{option}", flat[name])
    if flat.get("experts") or (family == "mixtral" and "experts" not in flat):
        _set_all(tree, stacks, "STACK.layer.feed_forward.name", "experts")
        for name, option in _OF_EXPERTS.items():
            if name in flat:
                _set_all(tree, stacks, f"STACK.layer.feed_forward.{option}", flat[name])
    elif flat.get("experts") == 0:
        _set_all(tree, stacks, "STACK.layer.feed_forward.name", "dense")
    _set_layers(tree, flat, stacks)
    _set_head(tree, flat, family)
    return tree


def moved(name: str, values: Mapping[str, Any], where: str = "model") -> str:
    """The sentence that says where an option of schema 1 is now, such as `it is model.decoder.layers now`.

    Args:
      name: of the option.
      values: the model's, with its family and the option's value.
      where: the model's path in the experiment.

    Returns:
      The sentence, or nothing for a name that schema 1 did not have.
    """
    value = values[name]
    if name == "causal":
        return f"a causal stack is {where}.decoder now, and one whose tokens see all others is {where}.encoder"
    if isinstance(value, Mapping) or name == "encoder_layers" and not isinstance(value, int):
        return ""
    besides = {"family": values.get("family", "llama"), **_BESIDES.get(name, {})}
    if places := _changed(besides, name, value):
        named = (path if _is_same(new, value) else f"{path}={new!r}" for path, new in places)
    else:  # a value that meant nothing
        named = (path for path, _ in _changed(besides, name, 1))
    sentence = " and ".join(f"{where}.{each}" for each in named)
    return f"it is {sentence} now" if sentence else ""


def _changed(besides: dict[str, Any], name: str, value: Any) -> list[tuple[str, Any]]:
    """The leaves of the tree that an option makes, beside those that are there without it."""
    before, after = (dict(_leaves(model_tree(flat))) for flat in (besides, {**besides, name: value}))
    return [(path, new) for path, new in after.items() if path not in before or before[path] != new]


def _is_same(new: Any, value: Any) -> bool:
    return type(new) is type(value) and bool(new == value)


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _stacks(flat: dict[str, Any], family: str) -> tuple[str, ...]:
    if "encoder_layers" in flat:
        both = flat["encoder_layers"] > 0
        return ("encoder", "decoder") if both else ("encoder",) if not _causal(flat, family) else ("decoder",)
    if "causal" in flat and not flat["causal"]:
        return ("encoder",)
    return _STACKS.get(family, ("decoder",))


def _causal(flat: dict[str, Any], family: str) -> bool:
    return bool(flat.get("causal", family != "bert"))


def _set_layers(tree: dict[str, Any], flat: dict[str, Any], stacks: tuple[str, ...]) -> None:
    main = "decoder" if "decoder" in stacks else "encoder"
    if "layers" in flat:
        _set(tree, f"{main}.layers", flat["layers"])
    if len(stacks) == 2 and "encoder_layers" in flat:
        _set(tree, "encoder.layers", flat["encoder_layers"])


def _set_head(tree: dict[str, Any], flat: dict[str, Any], family: str) -> None:
    transform = flat.get("head_transform", family == "bert")
    if transform:
        _set(tree, "head.name", "masked_lm")
        if "activation" in flat:
            _set(tree, "head.activation", flat["activation"])
        return
    if "tied_head" in flat:
        _set(tree, "head.name", "tied" if flat["tied_head"] else "untied")
    tied = flat.get("tied_head", family in ("gpt2", "gpt3", "t5"))
    if tied and "rescaled_head" in flat:
        _set(tree, "head.rescaled", flat["rescaled_head"])


def _set_all(tree: dict[str, Any], stacks: tuple[str, ...], path: str, value: Any) -> None:
    for stack in stacks:
        _set(tree, path.replace("STACK", stack), value)


def _set(tree: dict[str, Any], path: str, value: Any) -> None:
    *sections, field = path.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
    tree[field] = value
