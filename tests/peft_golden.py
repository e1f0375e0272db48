"""What `peft` made of a small Llama, `tests/golden/peft.npz`, and the same models here."""

import functools
from pathlib import Path

import numpy as np
import tiny

from t5x_like.adaptations.ia3 import IA3
from t5x_like.adaptations.lora import LoRA
from t5x_like.adaptations.prefix import Prefix
from t5x_like.adaptations.prompt import PromptTuning
from t5x_like.experiment import Data
from t5x_like.objectives.causal_lm import CausalLM
from t5x_like.program import program
from t5x_like.sections import changed

GOLDEN = np.load(Path(__file__).parent / "golden" / "peft.npz")
LAYERS, HEADS, KV_HEADS, HEAD_DIM = 2, 4, 2, 4
NAMES = {
    "self_attn.q_proj": "attention/query",
    "self_attn.k_proj": "attention/key",
    "self_attn.v_proj": "attention/value",
    "self_attn.o_proj": "attention/output",
    "mlp.gate_proj": "mlp/gate",
    "mlp.up_proj": "mlp/up",
    "mlp.down_proj": "mlp/down",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "mlp_norm",
}
WIDE = ("**/query", "**/value", "**/mlp/down")
METHODS = {
    "base": None,
    "lora": LoRA(rank=2, alpha=5),
    "rslora": LoRA(rank=2, alpha=5, rank_stabilized=True),
    "dora": LoRA(rank=2, alpha=5, magnitude=True, paths=WIDE),
    "ia3": IA3(),
    "prefix": Prefix(length=3, takes_positions=True),
    "prompt": PromptTuning(length=3),
}


def stacked(key, layout):
    """The tensors of all layers under a key, laid out as here, with a leading axis of layers."""
    return np.stack([layout(GOLDEN[key.format(layer)]) for layer in range(LAYERS)])


def base_values():
    values = {
        ("tokens", "table"): GOLDEN["base/model.embed_tokens.weight"],
        ("head", "table"): GOLDEN["base/lm_head.weight"],
        ("norm", "scale"): GOLDEN["base/model.norm.weight"],
    }
    for theirs, ours in NAMES.items():
        leaf = "scale" if "norm" in ours else "kernel"
        path = ("blocks", "layer", *ours.split("/"), leaf)
        values[path] = stacked(f"base/model.layers.{{}}.{theirs}.weight", np.transpose)
    return values


def adapted_values(method):
    """What `peft` trains, as our variables."""
    values, layer = {}, "base_model.model.model.layers.{}"
    for theirs, ours in NAMES.items():
        path = ("blocks", "layer", *ours.split("/"))
        for key, name, layout in (
            ("lora_A.weight", ("adapter", "lora_a"), np.transpose),
            ("lora_B.weight", ("adapter", "lora_b"), np.transpose),
            ("lora_magnitude_vector", ("adapter", "lora_magnitude"), np.ravel),
            ("ia3_l", ("rescale", "factors"), np.ravel),
        ):
            full = f"{method}/{layer}.{theirs}.{key}"
            if full.format(0) in GOLDEN:
                values[*path, *name] = stacked(full, layout)
    if method == "prompt":
        values["prompt", "rows"] = GOLDEN["prompt/prompt_embeddings"]
    if method == "prefix":
        # [prefix, (layer, key or value, head, width)]
        given = GOLDEN["prefix/prompt_embeddings"].reshape(3, LAYERS, 2, KV_HEADS, HEAD_DIM)
        for part, name in enumerate(("keys", "values")):
            values["blocks", "layer", "attention", "prefix", name] = given[:, :, part].swapaxes(0, 1)
    return values


@functools.cache
def built(method):
    model = tiny.architecture(embed=16, heads=HEADS, kv_heads=KV_HEADS, mlp=24, gated=True, activation="silu")
    model = changed(model, {"decoder": {"layer": {"norm": {"epsilon": 1e-6}}}})
    adaptations = {} if method == "base" else {method: METHODS[method]}
    data = Data(task=None, sequence_length=8, batch_size=8, documents_per_row=1)
    return program(tiny.experiment(CausalLM(), model=model, adaptations=adaptations, data=data))
