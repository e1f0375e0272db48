"""Mixtral (Jiang et al. 2024, section 2, table 1): Mistral with eight experts a layer, two of them for each token."""

from t5x_like.models.families import decoder, names
from t5x_like.models.families.layer_types import sliding
from t5x_like.models.hugging_face import Derived, Field, HuggingFace
from t5x_like.models.transformer.config import Transformer
from t5x_like.registry import Preset

_EXPERTS = "decoder.layer.feed_forward"
HUGGING_FACE = HuggingFace(
    model_type="mixtral",
    architectures={"MixtralForCausalLM": {}},
    config=(
        *names.llama_config(theta=1e6, epsilon=1e-5, max_length=131072),
        sliding(None),
        Field("num_local_experts", f"{_EXPERTS}.experts", default=8),
        Field("num_experts_per_tok", f"{_EXPERTS}.experts_per_token", default=2),
        Derived(f"{_EXPERTS}.name", lambda c: "experts"),
    ),
    tensors=lambda model: [
        *names.llama_tensors(),
        *names.experts("model.layers.{layer}.block_sparse_moe", gate="w1", up="w3", down="w2"),
    ],
    neutral={
        "attention_dropout": 0.0,
        "output_router_logits": False,
        "router_aux_loss_coef": 0.02,
        "router_jitter_noise": 0.0,
    },
    prefix="model.",
)

FAMILY = Preset(
    Transformer,
    values={
        "vocab_size": 32000,
        "max_length": 32768,
        "decoder": {
            "positions": {"name": "rope", "theta": 1e6},
            "layer": {
                "feed_forward": {"name": "experts", "experts": 8, "experts_per_token": 2, "balance_loss": 0.02},
                "norm": {"kind": "rmsnorm", "epsilon": 1e-5},
            },
        },
        "head": "untied",
    },
    hugging_face=HUGGING_FACE,
    sizes={
        "8x7b": decoder(layers=32, embed=4096, heads=32, kv_heads=8, head_dim=128, hidden=14336),
        "8x22b": decoder(
            layers=56,
            embed=6144,
            heads=48,
            kv_heads=8,
            head_dim=128,
            hidden=16384,
            vocab_size=32768,
            max_length=65536,
        ),
    },
)
