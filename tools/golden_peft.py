"""Golden values of adaptations: what `peft` makes of a small Llama, in `tests/golden/peft.npz`.

    python tools/golden_peft.py

It needs an environment with torch 2.13.0, transformers 5.23.0 and peft 0.21.2. All weights are drawn here, those of
adapters too, so that none is what it begins as.
"""

import argparse
import json
from typing import Any

import numpy as np

LAYERS, WIDTH, HEADS, KV_HEADS, HIDDEN, VOCABULARY, PROMPT = 2, 16, 4, 2, 24, 32, 3


def methods() -> dict[str, Any]:
    """The configurations of `peft` by the name that the test has for them."""
    import peft

    attention, task = ["q_proj", "v_proj"], {"task_type": "CAUSAL_LM"}
    lora = {"r": 2, "lora_alpha": 5, "target_modules": attention, **task}
    return {
        "lora": peft.LoraConfig(**lora),
        "rslora": peft.LoraConfig(**lora, use_rslora=True),
        "dora": peft.LoraConfig(**{**lora, "target_modules": [*attention, "down_proj"]}, use_dora=True),
        "ia3": peft.IA3Config(
            target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"], **task
        ),
        "prefix": peft.PrefixTuningConfig(num_virtual_tokens=PROMPT, **task),
        "prompt": peft.PromptTuningConfig(num_virtual_tokens=PROMPT, **task),
    }


def model() -> Any:
    """The library's Llama, with weights of a size at which every part matters."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=32,
        tie_word_embeddings=False,
        attn_implementation="eager",
    )
    made = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return made


def main() -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="tests/golden/peft.npz", help="where to write (default %(default)s)")
    options = parser.parse_args()
    import peft
    import torch

    ids = torch.from_numpy(np.random.default_rng(0).integers(1, VOCABULARY, (2, 7)))
    found = {f"base/{key}": value.numpy() for key, value in model().state_dict().items()} | {"tokens": ids.numpy()}
    with torch.no_grad():
        found["logits/base"] = model()(ids).logits.numpy()
    for name, config in methods().items():
        adapted = peft.get_peft_model(model(), config).eval()
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.3)
            logits = adapted(ids).logits
        found[f"logits/{name}"] = logits[:, -ids.shape[1] :].numpy()
        state = peft.get_peft_model_state_dict(adapted)
        found |= {f"{name}/{key}": value.numpy() for key, value in state.items()}
        found[f"config/{name}"] = np.array(json.dumps(adapted.peft_config["default"].to_dict(), default=list))
    np.savez_compressed(options.output, **{key: np.asarray(value) for key, value in sorted(found.items())})


if __name__ == "__main__":
    main()
