"""Samples: texts that the model writes while it trains, from fixed prompts with fixed randomness."""

from dataclasses import dataclass

from t5x_like.checks import require_positive
from t5x_like.errors import ExperimentError, UserError
from t5x_like.evaluation.base import Evaluation, EvaluationContext, Evaluator, Sample
from t5x_like.inference.sampling import Sampling
from t5x_like.inference.text import TextGenerator
from t5x_like.program import State, purpose_key


@dataclass(frozen=True, kw_only=True)
class SamplesEvaluator:
    """Options.

    Attributes:
      prompts: texts to continue.
      every: steps between runs while training; 0 runs at the end alone.
      tokens: how many tokens to add to each prompt.
      temperature: divides the logits; 0 takes the likeliest token.
      top_k: keeps the k likeliest tokens; 0 keeps all.
      top_p: keeps the likeliest tokens that together hold this probability.
      min_p: keeps the tokens that are at least this many times as likely as the likeliest; 0 keeps all.
      stop: texts that end a sample, and are no part of it.
    """

    name: str = "samples"
    prompts: tuple[str, ...] = ("",)
    every: int = 0
    tokens: int = 64
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.95
    min_p: float = 0.0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_positive(self, "tokens")
        if self.every < 0:
            raise ExperimentError("every", f"{self.every} is negative; it must be at least 0")
        try:
            self.sampling()
        except UserError as error:
            raise ExperimentError("", str(error)) from None
        if "" in self.stop:
            raise ExperimentError("stop", "a text in it is empty, with which every text ends; leave it out")

    def sampling(self) -> Sampling:
        """The sampler's part of the options."""
        return Sampling(self.temperature, self.top_k, self.top_p, self.min_p)

    def start(self, context: EvaluationContext) -> "RunningSamples":
        """Loads the vocabulary."""
        return RunningSamples(self, context)


class RunningSamples(Evaluator):
    """The evaluator at work."""

    def __init__(self, options: SamplesEvaluator, context: EvaluationContext) -> None:
        """Takes what it needs from the context."""
        self.options = options
        self.key = purpose_key(context.experiment.seed, "sample")
        self.generate = TextGenerator(context.program, context.task.vocabulary())

    def run(self, state: State, step: int) -> Evaluation:
        """One sample a prompt, drawn with the same keys every time, so that only the model differs."""
        o = self.options
        texts = self.generate(state, o.prompts, tokens=o.tokens, sampling=o.sampling(), key=self.key, stops=o.stop)
        return Evaluation({}, tuple(map(Sample, o.prompts, texts)))

    def metric_names(self) -> frozenset[str]:
        """None: it writes texts."""
        return frozenset()
