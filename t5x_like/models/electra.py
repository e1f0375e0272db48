"""ELECTRA's generator: a narrow encoder with its discriminator's embeddings (Clark et al. 2020, section 3.2)."""

from flax import nnx

from t5x_like.models.transformer.config import Transformer
from t5x_like.models.transformer.model import LanguageModel
from t5x_like.sections import changed, plain

SHARED = ("tokens", "positions", "types", "embedding_norm")  # modules of both


def generator_options(discriminator: Transformer, share: float) -> Transformer:
    """The options of a generator with a share of a discriminator's width, heads and hidden units (section 3.2)."""
    stack = plain(discriminator.main)
    attention, half = stack["layer"]["attention"], stack["layer"]["feed_forward"]

    def less(size: int) -> int:
        return max(round(size * share), 1)

    attention.update(heads=less(attention["heads"]), kv_heads=less(attention["kv_heads"]))
    half["hidden"] = less(half["hidden"])
    embed, table = less(discriminator.embed), discriminator.table_width
    stack["embeddings"]["width"] = table if table != embed else 0
    return changed(discriminator, {"embed": embed, "encoder": stack, "head": {"name": "masked_lm", "classes": 0}})


def build_generator(options: Transformer, discriminator: LanguageModel, rngs: nnx.Rngs) -> LanguageModel:
    """A generator that shares the embeddings of a discriminator, of tokens, positions and types, and their norm."""
    generator = LanguageModel(options, rngs)
    for name in SHARED:
        setattr(generator, name, getattr(discriminator, name))
    return generator
