"""ELECTRA's objective: which tokens did a small generator put in place of others? (Clark et al. 2020, section 2).

Generator and discriminator are trained together: the generator as a masked language model, the discriminator on the
tokens that the generator draws, through which no gradient goes.

Shapes: b batch, t length, q predicted tokens, v vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_like.errors import ExperimentError
from t5x_like.models.dropout import RowRngs, row_keys
from t5x_like.models.electra import build_generator, generator_options
from t5x_like.objectives.base import Batch, Loss, Mode
from t5x_like.objectives.masked_lm import MaskedLM
from t5x_like.objectives.predicted import at_places, predicted_places


@dataclass(frozen=True, kw_only=True)
class ReplacedTokens(MaskedLM):
    """Options beside those of `MaskedLM`, of which `rate` is rounded down, and every masked token becomes the mask.

    The model is the discriminator, such as `electra`. z-loss, label smoothing and normalisation are the generator's.

    Attributes:
      generator_share: of the discriminator's width, heads and hidden units, what the generator has (section 3.2).
      discriminator_weight: λ, of the discriminator's loss beside the generator's (section 2).
    """

    name: str = "replaced_tokens"
    mask_share: float = 1.0
    random_share: float = 0.0
    generator_share: float = 0.25
    discriminator_weight: float = 50.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.generator_share <= 1:
            raise ExperimentError("generator_share", f"{self.generator_share} must be above 0 and at most 1")
        if self.discriminator_weight < 0:
            raise ExperimentError(
                "discriminator_weight", f"{self.discriminator_weight} is negative; it must be at least 0"
            )

    def count(self, ordinary: int) -> int:
        """Rounded down, so that a row has a share of its places at most."""
        return int(ordinary * self.rate)

    # --- The model ----------------------------------------------------------------------------------------------------

    def build(self, architecture: Any, rngs: nnx.Rngs) -> nnx.Module:
        """The architecture's model, which scores each token, and a generator that shares its embeddings.

        Raises:
          ExperimentError: when the model scores something else.
        """
        discriminator = super().build(architecture, rngs)
        head = architecture.head
        if head.name != "token_classes" or head.classes != 1:
            raise ExperimentError(
                "model.head",
                f"objective {self.name!r} scores every token by whether it was replaced; set it to"
                " {'name': 'token_classes', 'classes': 1}, or model.family to 'electra'",
            )
        generator = build_generator(generator_options(architecture, self.generator_share), discriminator, rngs)
        return nnx.Dict(discriminator=discriminator, generator=generator)

    def inference_model(self, model: Any) -> Any:
        """The discriminator."""
        return model.discriminator

    def flops(self, architecture: Any, shapes: Mapping[str, tuple[int, ...]]) -> float:
        """Both models' for every token, and the generator's head for those that are masked."""
        rows, length = shapes["targets"]
        sizes, masked = {self.stack: (rows, length)}, {self.stack: (rows, self._most(length))}
        generator = generator_options(architecture, self.generator_share)
        head = generator.flops(masked) - generator.flops(masked, head=False)
        return architecture.flops(sizes) + generator.flops(sizes, head=False) + head

    # --- The loss -----------------------------------------------------------------------------------------------------

    def denominators(self, batch: Batch) -> Mapping[str, jax.Array]:
        """Of the generator's terms by `normalization`; of the discriminator's, every token that is no padding."""
        return {**super().denominators(batch), "discriminator": (batch["segment_ids"] > 0).sum(dtype=jnp.float32)}

    def loss(self, model: Any, batch: Batch, rngs: RowRngs, mode: Mode) -> Loss:
        """The sums of `TokenLoss` over the masked tokens, and of the binary cross-entropy over all."""
        dropout_rngs, positions_bt, segments_bt = mode.rngs(rngs), batch["positions"], batch["segment_ids"]
        where = {"positions_bt": positions_bt, "segment_ids_bt": segments_bt}
        own = dropout_rngs and dropout_rngs.fold(0)
        states_btd = model.generator.states(batch["inputs"], rngs=own, **where)
        places_bq, real_bq = predicted_places(batch["weights"], self._most(segments_bt.shape[1]))
        states_bqd, targets_bq, segments_bq = (
            at_places(each, places_bq) for each in (states_btd, batch["targets"], segments_bt)
        )
        hidden_bqd = model.generator.finish(states_bqd, own)
        generator = self.sums(model.generator, hidden_bqd, targets_bq, real_bq, segments_bq, mode)
        drawn_bq = _drawn(model.generator.output_head().logits(hidden_bqd), rngs.fold(2))
        read_bt = _put(batch["targets"], places_bq, jnp.where(real_bq > 0, drawn_bq, targets_bq))
        read_btd = model.discriminator(read_bt, rngs=dropout_rngs and dropout_rngs.fold(1), **where)
        scores_bt = model.discriminator.logits(read_btd)[..., 0]
        total, metrics = _told_apart(scores_bt, read_bt != batch["targets"], segments_bt > 0)
        metrics |= {f"generator_{name}": value for name, value in generator.metrics.items()}
        if mode is Mode.EVALUATE:
            metrics["loss"] = metrics["discriminator_loss"]
        return Loss({**generator.terms, "discriminator": self.discriminator_weight * total}, metrics)

    def _most(self, length: int) -> int:
        """Masked tokens of a row at most."""
        return max(int(length * self.rate), 1)


def _drawn(logits_bqv: jax.Array, rngs: RowRngs) -> jax.Array:
    """int32 [batch, tokens] of the generator's distribution, by Gumbel's trick; nothing is learnt through them."""
    drawn = jax.vmap(jax.random.categorical)(row_keys(rngs), jax.lax.stop_gradient(logits_bqv))
    return drawn.astype(jnp.int32)


def _put(tokens_bt: jax.Array, places_bq: jax.Array, new_bq: jax.Array) -> jax.Array:
    """The tokens with new ones at the places."""
    return jax.vmap(lambda tokens_t, places_q, new_q: tokens_t.at[places_q].set(new_q))(tokens_bt, places_bq, new_bq)


def _told_apart(
    scores_bt: jax.Array, replaced_bt: jax.Array, real_bt: jax.Array
) -> tuple[jax.Array, dict[str, tuple[jax.Array, jax.Array]]]:
    """The sum of −log p over the tokens, and metrics: the same, accuracy, the share replaced, and its F1."""

    def count(chosen_bt: jax.Array) -> jax.Array:
        return (real_bt & chosen_bt).sum(dtype=jnp.float32)

    total = (real_bt * jax.nn.softplus(jnp.where(replaced_bt, -scores_bt, scores_bt))).sum()
    found_bt, tokens = scores_bt > 0, real_bt.sum(dtype=jnp.float32)
    both = count(found_bt & replaced_bt)
    return total, {
        "discriminator_loss": (total, tokens),
        "accuracy": (count(found_bt == replaced_bt), tokens),
        "replaced": (count(replaced_bt), tokens),
        "f1": (2 * both, count(found_bt) + count(replaced_bt)),
    }
