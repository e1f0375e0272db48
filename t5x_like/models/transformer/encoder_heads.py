"""Options of the output heads of encoders: of masked tokens, of tokens' classes, and of a text's first token.

Their modules are in `heads`.
"""

from dataclasses import dataclass
from typing import Any

from flax import nnx

from t5x_like import registry
from t5x_like.checks import require_at_least, require_below, require_one_of, require_size
from t5x_like.errors import ExperimentError
from t5x_like.models.transformer.ends_options import Head
from t5x_like.models.transformer.layer_options import ACTIVATIONS

_MODULES = "t5x_like.models.transformer.heads"


@dataclass(frozen=True, kw_only=True)
class PooledHead(Head):
    """A reading of each text from the last state of its first token, and no scores of tokens.

    Attributes:
      pooler: whether that state passes a linear layer and a tanh (Devlin et al. 2019, as released).
      classes: of texts, or of pairs of them, that a further linear layer scores: 2 for whether one text follows another
        (BERT, section 3.1, task 2), or whether they are in order (ALBERT, section 3.1); 0 for none. They need the
        pooler.
    """

    name: str = "pooled"
    pooler: bool = True
    classes: int = 0

    def __post_init__(self) -> None:
        require_at_least(self, 0, "classes")
        require_below(self, 1 << 31, "classes")
        if self.classes and not self.pooler:
            raise ExperimentError("classes", f"{self.classes} classes are scored after a pooler; set pooler to True")

    def build_pooler(self, model: Any, rngs: nnx.Rngs) -> nnx.Module | None:
        """See `Head.build_pooler`."""
        return registry.imported(f"{_MODULES}:Pooler")(model, self.classes, rngs) if self.pooler else None

    def products(self, model: Any) -> int:
        """See `Head.products`: one token of a text counts for nothing."""
        return 0


@dataclass(frozen=True, kw_only=True)
class MaskedLMHead(PooledHead):
    """BERT's head: a linear layer, an activation and a norm before the token table, and a bias for each token.

    Attributes:
      pooler: as of `pooled`.
      classes: as of `pooled`.
      activation: of the linear layer.
      soft_cap: as of `tied`.
    """

    name: str = "masked_lm"
    pooler: bool = False
    activation: str = "gelu_exact"
    soft_cap: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of(self, "activation", ACTIVATIONS)
        require_at_least(self, 0, "soft_cap")

    def build_transform(self, model: Any, rngs: nnx.Rngs) -> nnx.Module:
        """See `Head.build_transform`."""
        return registry.imported(f"{_MODULES}:MaskedLMTransform")(model, self, rngs)

    def products(self, model: Any) -> int:
        """See `Head.products`."""
        return int((model.vocab_size + model.embed) * model.table_width)


@dataclass(frozen=True, kw_only=True)
class TokenClasses(Head):
    """Scores of each token's classes: a linear layer and an activation, then a row and a bias for each class.

    With one class it is ELECTRA's discriminator: the score of a token for having been replaced (Clark et al. 2020,
    section 2).

    Attributes:
      classes: how many.
      activation: of the linear layer.
    """

    name: str = "token_classes"
    classes: int = 1
    activation: str = "gelu_exact"

    def __post_init__(self) -> None:
        require_size(self, "classes")
        require_one_of(self, "activation", ACTIVATIONS)

    def build_transform(self, model: Any, rngs: nnx.Rngs) -> nnx.Module:
        """See `Head.build_transform`."""
        return registry.imported(f"{_MODULES}:TokenClassesTransform")(model, self, rngs)

    def build_table(self, model: Any, rngs: nnx.Rngs) -> nnx.Module:
        """See `Head.build_table`."""
        table = registry.imported("t5x_like.models.linear:Embedding")
        return table(self.classes, model.embed, None, std=model.head_std(), rngs=rngs)

    def products(self, model: Any) -> int:
        """See `Head.products`."""
        return int((self.classes + model.embed) * model.embed)
