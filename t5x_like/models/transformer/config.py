"""Options of a transformer: the tree below `model` in an experiment, without any array or module.

`Transformer` holds up to two stacks, an encoder and a decoder. A stack is a number of equal layers, or of a repeated
pattern of layers that differ; a layer is attention, a feed-forward half and norms. Parts that come in kinds with
options of their own are choices by name: attention and feed_forward (`layer_options`), positions, embeddings and head
(`ends_options`). The class of a kind that has a module names it in `module`, and imports it when it is built.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar

from flax import nnx

from t5x_like import registry, schema1_model
from t5x_like.checks import require_at_least, require_one_of, require_size
from t5x_like.errors import ExperimentError
from t5x_like.models.names import NameMap
from t5x_like.models.transformer import combinations, operations
from t5x_like.models.transformer.ends_options import Tokens
from t5x_like.models.transformer.layer_options import Experts, LayerOptions
from t5x_like.parallel import divisibility
from t5x_like.parallel.dimensions import Cut, Dimensions
from t5x_like.parallel.layout import Layout
from t5x_like.sections import Choice, merged, plain, section

DTYPES = ("float32", "bfloat16")
QUANTIZATIONS = ("none", "int8", "fp8")


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A stack of layers.

    Attributes:
      layers: how many.
      layer: what they have in common.
      pattern: how the layers of a repeated group differ from `layer`, one entry a layer of the group with the options
        that it changes: `[{"attention": {"window": 4096}}, {}]` for local and global layers in turn. Empty for equal
        layers. The last repetition may be cut short.
      shared: whether the repetitions of the layer, or of the group, are one set of parameters that runs several times
        (ALBERT, Lan et al. 2020, section 3.1).
      leading: how the layers before the repeated ones differ from `layer`, one entry a layer; they count in `layers`.
      positions: how a token's place in its row is told.
      embeddings: what goes into the first layer.
    """

    layers: int
    layer: LayerOptions
    pattern: tuple[Mapping[str, Any], ...] = ()
    leading: tuple[Mapping[str, Any], ...] = ()
    shared: bool = False
    positions: Annotated[Any, Choice("positions", default="rope")]
    embeddings: Annotated[Any, Choice("embeddings", default="tokens")]

    def __post_init__(self) -> None:
        require_size(self, "layers")
        if self.layers < len(self.leading) + len(self.group):
            raise ExperimentError(
                "pattern" if self.pattern else "leading",
                f"{len(self.leading) + len(self.group)} layers are described, and there are {self.layers}; describe"
                " fewer, or raise layers",
            )
        for name, layers in (("pattern", self.group), ("leading", self.leading_layers)):
            for number, layer in enumerate(layers):
                self._check_shared(f"{name}[{number}]", layer)
        if self.positions.name == "rope":
            self._check_rope()

    def _check_shared(self, where: str, layer: LayerOptions) -> None:
        """Raises ExperimentError where a layer has its own of what all layers of a stack share."""
        shared = ["norm.position"]
        if self.positions.name == "rope":
            shared.append("attention.head_dim")
        if self.positions.name in ("relative", "alibi"):
            shared.append("attention.heads")
        for path in shared:
            section, field = path.split(".")
            own, common = (getattr(getattr(each, section), field, None) for each in (layer, self.layer))
            if own != common:
                raise ExperimentError(
                    f"{where}.{path}",
                    f"{own!r} differs from layer.{path}={common!r}, which the layers of a stack share with"
                    f" {self.positions.name} positions; leave it out, and set layer.{path}",
                )

    def _check_rope(self) -> None:
        head_dim, fraction = self.layer.attention.head_dim, self.positions.fraction
        rotated = round(head_dim * fraction)
        if rotated % 2:
            part = "" if fraction == 1 else f", as {fraction} of {head_dim} is,"
            where = "layer.attention.head_dim" if fraction == 1 else "positions.fraction"
            raise ExperimentError(where, f"{rotated}{part} is odd; rotary positions turn pairs, so make it even")
        if head_dim and not rotated:
            raise ExperimentError(
                "positions.fraction",
                f"{fraction} of layer.attention.head_dim={head_dim} is nothing; it must be {2 / head_dim:g} or more",
            )

    @property
    def width(self) -> int:
        """Of the tables of embeddings, where a linear layer brings them to the model's; else 0."""
        return self.embeddings.width if isinstance(self.embeddings, Tokens) else 0

    @property
    def asked(self) -> bool:
        """Whether there is a vector of its own for a token that is asked for."""
        return bool(getattr(self.embeddings, "asked", False))

    @property
    def offset(self) -> int:
        """Rows of the table of positions before the first one's."""
        return int(getattr(self.positions, "offset", 0))

    def __hash__(self) -> int:
        return hash(
            (self.layers, self.layer, self.positions, self.embeddings, repr((self.pattern, self.leading, self.shared)))
        )

    @cached_property
    def group(self) -> tuple[LayerOptions, ...]:
        """The layers of one repetition of the pattern: one where all layers are equal."""
        return self._changed("pattern", self.pattern) if self.pattern else (self.layer,)

    @cached_property
    def leading_layers(self) -> tuple[LayerOptions, ...]:
        """The layers before the repeated ones."""
        return self._changed("leading", self.leading)

    @property
    def repetitions(self) -> int:
        """How often the group is repeated as a whole."""
        return (self.layers - len(self.leading)) // len(self.group)

    @property
    def trailing_layers(self) -> tuple[LayerOptions, ...]:
        """The layers of a last repetition that is cut short."""
        return self.group[: (self.layers - len(self.leading)) % len(self.group)]

    @property
    def every_layer(self) -> tuple[LayerOptions, ...]:
        """All layers in their order."""
        return (*self.leading_layers, *self.group * self.repetitions, *self.trailing_layers)

    def _changed(self, name: str, entries: tuple[Mapping[str, Any], ...]) -> tuple[LayerOptions, ...]:
        common = plain(self.layer)
        return tuple(
            section(LayerOptions, merged(LayerOptions, common, changes), f"{name}[{number}]")
            for number, changes in enumerate(entries)
        )


@dataclass(frozen=True, kw_only=True)
class Transformer:
    """A transformer: a decoder, an encoder, or a decoder that looks at what an encoder has read.

    A decoder's tokens see none that is later; an encoder's see all of their row.

    Attributes:
      family: the table the other fields were taken from.
      size: the row of that table; empty when all fields are given.
      vocab_size: rows of the embedding table; at least the tokenizer's pieces.
      embed: width of the residual stream.
      max_length: rows of a table of learned positions; with other positions, the length the model is meant for, which
        bounds what is generated.
      encoder: the encoder's stack; none for a decoder alone.
      decoder: the decoder's stack; none for an encoder alone, such as BERT.
      head: what the last states are scored with.
      dropout: rate after the embeddings and on each residual branch.
      dropout_inside: whether the same rate drops attention's weights (a key for all queries of a head at once), hidden
        units, and the last hidden states too.
      init_std: standard deviation of the first weights; 0 is 1/√inputs for matrices, and 0.02 for tables.
      embedding_std: of the token table's first values; 0 leaves it to `init_std`.
      residual_init: whether matrices that write to the residual stream start smaller by √(2 layers).
      dtype: of the computation; parameters and their gradients are float32.
      quantization: `none`, or `int8` or `fp8` for the layers' products against parameters (models/quantized.py).
    """

    family: str
    size: str = ""
    vocab_size: int
    embed: int
    max_length: int
    encoder: Stack | None = None
    decoder: Stack | None = None
    head: Annotated[Any, Choice("head", default="untied")]
    dropout: float = 0.0
    dropout_inside: bool = False
    init_std: float = 0.02
    embedding_std: float = 0.0
    residual_init: bool = True
    dtype: str = "float32"
    quantization: str = "none"

    def __post_init__(self) -> None:
        require_size(self, "vocab_size", "embed", "max_length")
        require_one_of(self, "dtype", DTYPES)
        require_one_of(self, "quantization", QUANTIZATIONS)
        require_at_least(self, 0, "init_std", "embedding_std")
        if not 0.0 <= self.dropout < 1.0:
            raise ExperimentError("dropout", f"{self.dropout} is not a rate; it must be at least 0 and below 1")
        if self.encoder is None and self.decoder is None:
            raise ExperimentError("decoder", "there is neither a decoder nor an encoder; give one of them")
        combinations.require(self)

    @staticmethod
    def former_field(name: str, values: Mapping[str, Any], where: str) -> str:
        """The place of an option of schema 1; see `sections.section`."""
        return schema1_model.moved(name, values, where)

    # --- The protocol of an architecture (models/base.py) -------------------------------------------------------------

    couples_batch: ClassVar[bool] = False

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """The model with its first parameters."""
        kind = "encoder_decoder:EncoderDecoder" if self.encoder and self.decoder else "model:LanguageModel"
        return registry.imported(f"t5x_like.models.transformer.{kind}")(self, rngs)

    def check(self, layout: Layout | None, data: Any, rows: int) -> None:
        """See `Architecture.check`."""
        learned = [stack for stack in (self.encoder, self.decoder) if stack and stack.positions.name == "learned"]
        bounded = [
            stack
            for stack in (self.main, *learned)
            if stack.positions.name not in ("relative", "alibi", "disentangled")
        ]
        if bounded and data.sequence_length > self.max_length:
            raise ExperimentError(
                "data.sequence_length",
                f"{data.sequence_length} tokens exceed model.max_length={self.max_length}; raise that or cut",
            )
        if layout is None:
            return
        combinations.require_stages(self, layout.stages)
        divisibility.require(layout, self.dimensions(), data.sequence_length)
        divisibility.require_stages(layout, self.dimensions(), rows)

    def dimensions(self) -> Dimensions:
        """See `Architecture.dimensions`; of layers that differ, the largest sizes."""
        layers = [layer for stack in self._stacks().values() for layer in (*stack.leading_layers, *stack.group)]
        attentions, halves = [layer.attention for layer in layers], [layer.feed_forward for layer in layers]
        mixed = [half for half in halves if isinstance(half, Experts)]
        main = self.main
        windows = {layer.attention.window for layer in main.every_layer}
        return Dimensions(
            vocab=self.vocab_size,
            embed=self.embed,
            heads=max(each.heads for each in attentions),
            kv_heads=max(each.kv_heads for each in attentions),
            head_dim=max(each.head_dim for each in attentions),
            mlp=max(each.hidden for each in halves),
            gated=any(each.gated for each in halves),
            experts=max((each.experts for each in mixed), default=0),
            experts_per_token=max((each.experts_per_token for each in mixed), default=0),
            layers=main.layers,
            encoder_layers=self.encoder.layers if self.encoder and self.decoder else 0,
            causal=self.causal,
            window=windows.pop() if len(windows) == 1 else 0,
            attention_bias=any(stack.positions.name in ("relative", "alibi") for stack in self._stacks().values())
            or any(each.has_content_bias for each in attentions),
            itemsize=2 if self.dtype == "bfloat16" else 4,
            cuts=tuple(self._cuts()),
            stacks=tuple((f"{name}.layers", stack.repetitions) for name, stack in self._stacks().items()),
        )

    @property
    def stacks(self) -> tuple[str, ...]:
        """Which stacks there are: `encoder`, `decoder` or both."""
        return tuple(self._stacks())

    def _stacks(self) -> dict[str, Stack]:
        both = {"encoder": self.encoder, "decoder": self.decoder}
        return {name: stack for name, stack in both.items() if stack is not None}

    def _cuts(self) -> Iterator[Cut]:
        """Every size that a mesh may cut, once."""
        for name, stack in self._stacks().items():
            pattern = [(f"pattern[{i}]" if stack.pattern else "layer", each) for i, each in enumerate(stack.group)]
            leading = [(f"leading[{i}]", each) for i, each in enumerate(stack.leading_layers)]
            for place, layer in (*leading, *pattern):
                where = f"{name}.{place}"
                attention, half = layer.attention, layer.feed_forward
                yield Cut(f"{where}.attention.heads", attention.heads, "heads", "tensor")
                yield Cut(f"{where}.attention.kv_heads", attention.kv_heads, "kv", "tensor")
                yield Cut(f"{where}.feed_forward.hidden", half.hidden, "mlp", "tensor")
                if isinstance(half, Experts):
                    yield Cut(f"{where}.feed_forward.experts", half.experts, "expert", "expert")
                yield Cut(f"{where}.attention.heads", attention.heads, "attention_heads", "sequence")
        yield Cut("vocab_size", self.vocab_size, "vocab", "tensor")
        yield Cut("embed", self.embed, "embed", "fsdp")

    def flops(self, shapes: Mapping[str, tuple[int, ...]], *, head: bool = True) -> float:
        """See `Architecture.flops`; `shapes` has `encoder` or `decoder`, or both."""
        return operations.flops(self, shapes, head=head)

    def names(self) -> NameMap:
        """See `Architecture.names`."""
        preset = registry.load("model", self.family)
        form = preset.hugging_face if isinstance(preset, registry.Preset) else None
        if form is None:
            raise ExperimentError("family", f"{self.family!r} has no names in Hugging Face's format; give it some")
        return NameMap(tuple(form.tensors(self)), self.locate_layer, form.ignored, form.prefix)

    def locate_layer(self, blocks: str, layer: int) -> tuple[str, tuple[int, ...]] | None:
        """Where the variables of a layer are: what their paths begin with, and their place along the first axis.

        Args:
          blocks: the path of a stack's layers: `blocks`, or `encoder.blocks` of an encoder with a decoder.
          layer: its number in the stack.

        Returns:
          None past the last layer; the place is empty where the layer is none of the repeated ones.
        """
        stack = self.encoder if self.encoder and self.decoder and blocks == "encoder.blocks" else self.main
        if layer >= stack.layers:
            return None
        before, first = blocks.removesuffix("blocks"), len(stack.leading)
        if layer < first:
            return f"{before}leading.layers.{layer}", ()
        repetition, number = divmod(layer - first, len(stack.group))
        if repetition == stack.repetitions:
            return f"{before}trailing.layers.{number}", ()
        path = f"{blocks}.layer" + (f".layers.{number}" if len(stack.group) > 1 else "")
        if stack.shared:
            return (path, ()) if repetition == 0 else None
        return path, (repetition,)

    # --- Shared by the parts ------------------------------------------------------------------------------------------

    @property
    def main(self) -> Stack:
        """The stack whose last states the head scores: the decoder's, or the encoder's where there is no decoder."""
        stack = self.decoder or self.encoder
        assert stack is not None  # __post_init__
        return stack

    @property
    def causal(self) -> bool:
        """Whether the main stack's tokens see none that is later."""
        return self.decoder is not None

    def residual_std(self, inputs: int) -> float:
        """Standard deviation of the matrices that write to the residual stream (GPT-2, section 2.3: ÷ √(2 layers))."""
        return (self.init_std or inputs**-0.5) * ((2 * self.main.layers) ** -0.5 if self.residual_init else 1.0)

    @property
    def table_width(self) -> int:
        """Width of the token table."""
        return self.main.width or self.embed

    def table_std(self) -> float:
        """Standard deviation of the token table."""
        return self.embedding_std or self.init_std or 0.02

    def head_std(self) -> float:
        """Standard deviation of a head of its own; where `embedding_std` sets the table's apart, that of a matrix."""
        return self.init_std or (self.embed**-0.5 if self.embedding_std else 0.02)
