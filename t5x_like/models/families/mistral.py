"""Mistral 7B (Jiang et al. 2023, section 2, table 1): Llama with grouped heads and a window of attention.

The window of 4,096 tokens is that of the released code, which counts a token itself; by the paper a token sees 4,096
earlier ones.
"""

from t5x_like.models.families import decoder, llama, names
from t5x_like.models.families.layer_types import sliding
from t5x_like.models.hugging_face import HuggingFace
from t5x_like.models.transformer.config import Transformer
from t5x_like.registry import Preset
from t5x_like.sections import merged

HUGGING_FACE = HuggingFace(
    model_type="mistral",
    architectures={"MistralForCausalLM": {}},
    config=(*names.llama_config(max_length=131072), sliding(4096)),
    tensors=lambda model: names.llama_tensors(),
    neutral={"attention_dropout": 0.0},
    ignored=("model.layers.*.self_attn.rotary_emb.inv_freq",),
    prefix="model.",
)

FAMILY = Preset(
    Transformer,
    values=merged(
        Transformer,
        llama.FAMILY.values,
        {"max_length": 32768, "decoder": {"layer": {"attention": {"window": 4095}}}},
    ),
    hugging_face=HUGGING_FACE,
    sizes={"7b": decoder(layers=32, embed=4096, heads=32, kv_heads=8, head_dim=128, hidden=14336)},
)
