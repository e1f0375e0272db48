"""How little is trained, as published: counted abstractly, on the models that the papers have."""

import math

import pytest
import tiny

from t5x_like import variables
from t5x_like.adaptations.bitfit import BitFit
from t5x_like.adaptations.bottleneck import Bottleneck
from t5x_like.adaptations.lora import LoRA
from t5x_like.adaptations.prefix import Prefix
from t5x_like.objectives.causal_lm import CausalLM
from t5x_like.objectives.masked_lm import MaskedLM
from t5x_like.program import program
from t5x_like.sections import Choice, choose

MASKED = MaskedLM(vocab_size=30522, mask_id=103, special_ids=(0,), rate=0.15)


@pytest.mark.parametrize(
    ("family", "size", "objective", "adaptation", "least", "most"),
    [
        # Hu et al. 2022, section 1: "10,000 times" fewer than the 175 billion, with r = 4 on queries and values.
        ("gpt3", "175b", CausalLM(), LoRA(rank=4), 1 / 10_000, 1 / 9_000),
        # Houlsby et al. 2019, section 3.2: 3.6% a task, in a range of sizes; 2.1% at a fixed size of 64.
        ("bert", "large", MASKED, Bottleneck(size=128, norms=True), 0.03, 0.04),
        ("bert", "large", MASKED, Bottleneck(size=64, norms=True), 0.018, 0.022),
        # Li & Liang 2021, abstract: "only 0.1% of the parameters"; GPT-2 Large with a prefix of 10.
        ("gpt2", "774m", CausalLM(), Prefix(length=10), 0.0009, 0.0013),
        # Ben Zaken et al. 2022, table 1: 0.08% of BERT-Large, which is here with the head of its pre-training.
        ("bert", "large", MASKED, BitFit(paths=("blocks/**/bias", "embedding_norm/bias")), 0.0008, 0.00082),
    ],
)
def test_trained_shares_are_those_of_the_papers(family, size, objective, adaptation, least, most):
    model = choose(Choice("model", family, "family"), {"family": family, "size": size})
    run = program(tiny.experiment(objective, model=model, adaptations={"mine": adaptation}))
    trained = sum(math.prod(info.shape) for info in variables.flatten(run.parameter_infos()).values())
    assert least <= trained / (run.parameter_count() - (0 if isinstance(adaptation, BitFit) else trained)) <= most
