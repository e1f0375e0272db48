"""Migration of the model's options from schema 1, one flat table, to the tree of `models.transformer.config`."""

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
