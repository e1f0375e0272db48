"""A model taken from a checkpoint, to measure or to generate with: nothing but the checkpoint is needed."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from t5x_like import variables
from t5x_like.adaptations.quantize import Quantize
from t5x_like.checkpoint.layout import find
from t5x_like.checkpoint.reading import restore_parts
from t5x_like.checkpoint.workdir import ASSETS
from t5x_like.data.vocabulary_files import read
from t5x_like.errors import UserError
from t5x_like.evaluation.base import EvaluationContext, Sample
from t5x_like.evaluation.devices import layout_here
from t5x_like.experiment import Experiment
from t5x_like.inference.sampling import Sampling
from t5x_like.inference.scoring import Scorer
from t5x_like.inference.search import BeamSearch
from t5x_like.inference.text import Reader, TextGenerator
from t5x_like.models.compressed import BITS
from t5x_like.program import MODEL_PARTS, State, program


class Restored:
    """The model of one commit, on the devices that are here.

    Attributes:
      path: the commit's directory.
      step: updates the model has had.
      experiment: the run's resolved experiment, laid out over whatever devices are here.
    """

    def __init__(self, checkpoint: str, *, quantize: str = ""):
        """Reads the parameters.

        Args:
          checkpoint: a run's workdir, or one step inside it.
          quantize: a format of `models.compressed`, such as `int8`, to keep the kernels of linear layers in; empty to
            leave them as they are.

        Raises:
          UserError: when there is no commit at `checkpoint`, or it is damaged.
        """
        commit = find(checkpoint)
        self.step, self.path = commit.step, commit.path
        self._assets = commit.workdir / ASSETS
        meta = commit.manifest().meta
        self._generation: Mapping[str, Any] = meta.get("generation", {})
        self.experiment = Experiment.from_dict(meta["experiment"])
        self.program = program(self.experiment, layout_here(self.experiment))
        abstract = self.program.abstract_state()
        self.state: State = restore_parts(commit, {name: abstract[name] for name in MODEL_PARTS})
        if quantize:
            self._compress(quantize)

    def _compress(self, format_: str) -> None:
        """Compresses kernels: a scale for each column, or with four bits for each 64 inputs of one."""
        group = 0 if BITS[format_] == 8 else 64
        added = {"quantized": Quantize(format=format_, group=group, double=False)}
        base = self.program
        self.experiment = dataclasses.replace(self.experiment, adaptations={**self.experiment.adaptations, **added})
        self.program = run = program(self.experiment, base.layout)

        def compressed(values: dict[variables.Path, jax.Array]) -> State:
            with run.layout.use():
                state = run.start_from(run.adapted(base, values))
            return {name: state[name] for name in MODEL_PARTS}

        shardings = jax.tree.map(lambda leaf: leaf.sharding, {name: run.abstract_state()[name] for name in MODEL_PARTS})
        values = variables.flatten(self.state["parameters"]) | variables.flatten(self.state["model_state"])
        self.state = jax.jit(compressed, out_shardings=shardings)(values)

    def evaluate(self) -> tuple[dict[str, float], list[tuple[str, Sample]]]:
        """The metrics of every evaluator of the experiment by full name, and samples by evaluator."""
        context = EvaluationContext(self.experiment, self.program, self.experiment.data.task)
        metrics: dict[str, float] = {}
        samples: list[tuple[str, Sample]] = []
        for key, options in self.experiment.evaluators.items():
            found = options.start(context).run(self.state, self.step)
            metrics |= {f"{key}/{name}": value for name, value in found.metrics.items()}
            samples += [(key, sample) for sample in found.samples]
        return metrics, samples

    def generate(
        self,
        prompts: Sequence[str],
        *,
        tokens: int,
        sampling: Sampling | BeamSearch,
        seed: int = 0,
        stops: Sequence[str] = (),
        reader: Reader | None = None,
    ) -> list[str]:
        """The model's continuation of each prompt; see `inference.text.TextGenerator`.

        Raises:
          UserError: when the model does not write, and for a prompt that it cannot read.
        """
        generate, key = self.text_generator(), jax.random.key(seed)
        return generate(self.state, prompts, tokens=tokens, sampling=sampling, key=key, stops=stops, reader=reader)

    def text_generator(self) -> TextGenerator:
        """What continues texts with this model.

        Raises:
          UserError: when the model does not write.
        """
        if not hasattr(self.program.inference_model(self.state), "decode"):
            raise UserError(f"{self.path} holds a model that does not write text")
        return TextGenerator(self.program, self.vocabulary(), **self._generation)

    def scorer(self) -> Scorer:
        """What scores texts with this model."""
        begin = self._generation.get("begin")
        return Scorer(self.program, (0,) if begin is None else begin)

    def vocabulary(self) -> Any:
        """The one kept beside the checkpoint: a run may be taken away from the files that it was trained on."""
        kept = next(iter(self._assets.iterdir()), None) if self._assets.exists() else None
        if kept is not None:
            return read(kept.read_bytes(), "data.task.tokenizer", str(kept))
        return self.experiment.data.task.vocabulary()
