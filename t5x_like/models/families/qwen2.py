"""Qwen 2.5 (Yang et al. 2024, section 2, table 1): Llama with biases of queries, keys and values."""

from t5x_like.models.families import decoder, llama, names
from t5x_like.models.families.layer_types import all_full, layer_types
from t5x_like.models.hugging_face import Derived, HuggingFace
from t5x_like.models.transformer.config import Transformer
from t5x_like.registry import Preset
from t5x_like.sections import merged

HUGGING_FACE = HuggingFace(
    model_type="qwen2",
    architectures={"Qwen2ForCausalLM": {}},
    config=(
        *names.llama_config(),
        layer_types(all_full, switch=True),
        Derived("decoder.layer.attention.bias", lambda c: True),
        Derived("decoder.layer.attention.output_bias", lambda c: False),
    ),
    tensors=lambda model: names.llama_tensors(),
    neutral={"attention_dropout": 0.0, "max_window_layers": None},
    prefix="model.",
)

FAMILY = Preset(
    Transformer,
    values=merged(
        Transformer,
        llama.FAMILY.values,
        {
            "vocab_size": 151936,
            "max_length": 32768,
            "decoder": {
                "positions": {"theta": 1e6},
                "layer": {"attention": {"bias": True, "output_bias": False}, "norm": {"epsilon": 1e-6}},
            },
        },
    ),
    hugging_face=HUGGING_FACE,
    sizes={
        "0.5b": decoder(layers=24, embed=896, heads=14, kv_heads=2, head_dim=64, hidden=4864, head="tied"),
        "1.5b": decoder(layers=28, embed=1536, heads=12, kv_heads=2, head_dim=128, hidden=8960, head="tied"),
        "3b": decoder(layers=36, embed=2048, heads=16, kv_heads=2, head_dim=128, hidden=11008, head="tied"),
        "7b": decoder(layers=28, embed=3584, heads=28, kv_heads=4, head_dim=128, hidden=18944, vocab_size=152064),
        "14b": decoder(layers=48, embed=5120, heads=40, kv_heads=8, head_dim=128, hidden=13824, vocab_size=152064),
        "32b": decoder(layers=64, embed=5120, heads=40, kv_heads=8, head_dim=128, hidden=27648, vocab_size=152064),
        "72b": decoder(layers=80, embed=8192, heads=64, kv_heads=8, head_dim=128, hidden=29568, vocab_size=152064),
    },
)
