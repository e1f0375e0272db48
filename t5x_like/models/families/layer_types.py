"""Entries of `config.json` that say how far each layer sees.

A window is counted there with the token itself, and here without: a `sliding_window` of 4,096 is a window of 4,095.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from t5x_like.errors import UserError
from t5x_like.models.hugging_face import Config, Translation

SLIDING, FULL = "sliding_attention", "full_attention"


def sliding(default: int | None) -> Translation:
    """`sliding_window`, of all layers; `default` is what a file without it means."""

    def read(config: Config) -> Mapping[str, Any]:
        return {"decoder.layer.attention.window": _window(config.get("sliding_window", default)), "decoder.pattern": []}

    def write(model: Any) -> Mapping[str, Any]:
        return {"sliding_window": _width(model)}

    return Translation(("sliding_window",), read, write)


def layer_types(
    default: Callable[[Config], Sequence[str]],
    *,
    width: int | None = None,
    switch: bool = False,
    others: tuple[str, ...] = (),
) -> Translation:
    """`layer_types` and the `sliding_window` of those that have one.

    Args:
      default: the types in a file that gives none.
      width: the window in a file that gives none.
      switch: whether there are windows only where `use_sliding_window` says so.
      others: entries that `default` reads.
    """

    def read(config: Config) -> Mapping[str, Any]:
        types = list(config.get("layer_types") or default(config))
        if switch and not config.get("use_sliding_window"):
            types = [FULL] * len(types)
        for kind in types:
            if kind not in (SLIDING, FULL):
                raise UserError(f"config.json has layer_types with {kind!r}; they must be {SLIDING!r} or {FULL!r}")
        window = _window(config.get("sliding_window", width))
        length = next(n for n in range(1, len(types) + 1) if all(a == types[i % n] for i, a in enumerate(types)))
        if length == 1:
            return {"decoder.layer.attention.window": window if types[0] == SLIDING else 0, "decoder.pattern": []}
        pattern = [{"attention": {"window": window if kind == SLIDING else 0}} for kind in types[:length]]
        return {"decoder.layer.attention.window": 0, "decoder.pattern": pattern}

    def write(model: Any) -> Mapping[str, Any]:
        types = [SLIDING if layer.attention.window else FULL for layer in model.decoder.every_layer]
        used = {"use_sliding_window": SLIDING in types} if switch else {}
        return {"layer_types": types, "sliding_window": _width(model), **used}

    keys = ("layer_types", "sliding_window", *others, *(("use_sliding_window",) if switch else ()))
    return Translation(keys, read, write)


def alternating(config: Config) -> list[str]:
    """A window in every other layer, the first one included."""
    return [FULL if number % 2 else SLIDING for number in range(config["num_hidden_layers"])]


def all_full(config: Config) -> list[str]:
    """No windows."""
    return [FULL] * config["num_hidden_layers"]


def _window(width: int | None) -> int:
    if width is not None and width < 2:
        raise UserError(f"config.json has sliding_window={width}; it must be 2 or more")
    return 0 if width is None else width - 1


def _width(model: Any) -> int | None:
    windows = {layer.attention.window for layer in model.decoder.every_layer} - {0}
    if len(windows) > 1:
        raise UserError(
            f"model.decoder has windows of {sorted(windows)}; Hugging Face's config.json has one for all layers"
        )
    return windows.pop() + 1 if windows else None
