"""Checks of a transformer's options against each other, where each by itself may be as it is."""

from typing import Any

from t5x_like.errors import ExperimentError

_MOST_VALUES = 1 << 62


def require(model: Any) -> None:
    """Raises ExperimentError, at the option, where the options of a transformer do not go together.

    Args:
      model: the options of a transformer.
    """
    stacks = {name: getattr(model, name) for name in model.stacks}
    for name, stack in stacks.items():
        _require_stack(model, name, stack)
    if model.decoder is not None:
        _require_decoder(model.decoder)
    widths = {name: stack.width or model.embed for name, stack in stacks.items()}
    if len({*widths.values()}) > 1:
        raise ExperimentError(
            "encoder.embeddings.width",
            f"{widths['encoder']} differs from the decoder's {widths['decoder']}, and both read one table of tokens;"
            " use one width",
        )
    if model.head.name == "tied" and model.table_width != model.embed:
        raise ExperimentError(
            "head",
            f"'tied' scores states of {model.embed} with a table of {model.table_width}; use 'masked_lm', which has a"
            " layer between, or 'untied'",
        )


def require_stages(model: Any, stages: int) -> None:
    """Raises ExperimentError where layers that are one set of parameters would be in several pipeline stages."""
    for name in model.stacks:
        if getattr(model, name).shared and stages > 1:
            raise ExperimentError(
                "parallelism.stage",
                f"the layers of model.{name} are one set of parameters (shared=True), which no two stages can have; use"
                " 1",
            )


def _require_stack(model: Any, name: str, stack: Any) -> None:
    if stack.positions.name == "sinusoidal" and model.embed % 2:
        raise ExperimentError(
            "embed", f"{model.embed} is odd; a sinusoid is a pair of sine and cosine, so make it even"
        )
    for layer in (*stack.leading_layers, *stack.group):
        attention, half = layer.attention, layer.feed_forward
        if (attention.name == "disentangled") != (stack.positions.name == "disentangled"):
            raise ExperimentError(
                f"{name}.positions",
                f"they are {stack.positions.name!r} with attention {attention.name!r}; 'disentangled' goes with"
                " 'disentangled' alone",
            )
        widest = max(
            getattr(attention, "heads", 0) * getattr(attention, "head_dim", 0),
            getattr(half, "hidden", 0) * getattr(half, "experts", 1),
        )
        if stack.layers * model.embed * widest >= _MOST_VALUES:
            raise ExperimentError(
                f"{name}.layers",
                f"{stack.layers} layers of {model.embed} by {widest} are more values than an array can have; the"
                " product must be below 2^62",
            )


def _require_decoder(decoder: Any) -> None:
    """What has no keys and values in a cache, or sees later tokens, is an encoder's."""
    for layer in decoder.every_layer:
        if layer.convolution:
            raise ExperimentError(
                "decoder.layer.convolution", "it sees later tokens; it is for an encoder, so set it to 0"
            )
        if layer.attention.name in ("disentangled", "two_stream"):
            raise ExperimentError(
                "decoder.layer.attention",
                f"{layer.attention.name!r} reads no cache; it is for an encoder, so choose another kind",
            )
