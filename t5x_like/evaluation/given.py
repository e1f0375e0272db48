"""A model that an experiment describes, with the values of checkpoints: for T5X's evaluation and inference.

`restored` takes the experiment from the checkpoint itself. Here it is given, and the checkpoint may be of another run,
or of another format, as long as it has each variable.
"""

from etils import epath

from t5x_like.checkpoint import leaves, mapping, sources
from t5x_like.checkpoint.layout import CHECKPOINTS, COMMITTED, find
from t5x_like.errors import ExperimentError, UserError
from t5x_like.evaluation.base import EvaluationContext
from t5x_like.evaluation.devices import layout_here
from t5x_like.experiment import Experiment, Initialize
from t5x_like.program import State, program
from t5x_like.sections import flatten


class GivenModel:
    """The program of an experiment, to which checkpoints give their values.

    Attributes:
      experiment: laid out over whatever devices are here.
      program: its program.
    """

    def __init__(self, experiment: Experiment):
        """Builds the model abstractly."""
        self.experiment = experiment
        self.program = program(experiment, layout_here(experiment))

    @property
    def context(self) -> EvaluationContext:
        """What evaluators take."""
        return EvaluationContext(self.experiment, self.program, self.experiment.data.task)

    def restore(self, checkpoint: str) -> tuple[State, int]:
        """The parameters of a checkpoint, and its step.

        Raises:
          UserError: when it is not there, or lacks a variable.
        """
        options = Initialize(checkpoint=checkpoint, unused=("**",))
        source, where = sources.of(options)
        assert source is not None
        try:
            found = source.open()
            abstract = self.program.abstract_state()
            wanted = leaves.flatten(abstract["parameters"]) | leaves.flatten(abstract["model_state"])
            copies = {".".join(path) for path, role in self.program.roles.items() if role.source is not None}
            plan = mapping.plan(options, where, wanted, copies, found, flatten(self.experiment.to_dict()))
        except ExperimentError as error:
            raise UserError(f"CHECKPOINT_PATH: {error.problem}") from None
        except UserError as error:
            raise UserError(f"CHECKPOINT_PATH: {error}") from None
        values = mapping.take(plan, wanted, found, lambda paths: {})
        parameters, rest = self.program.partition({tuple(path.split(".")): value for path, value in values.items()})
        return {"parameters": parameters, "model_state": rest}, found.step


def checkpoints_in(path: str) -> list[str]:
    """Every checkpoint of a run, in the order of their steps; the path itself where it is one of them.

    Raises:
      UserError: when there is none.
    """
    commit = find(path)
    if commit.path == epath.Path(path):
        return [path]
    steps = [int(each.name) for each in commit.path.parent.iterdir() if (each / COMMITTED).exists()]
    return [str(epath.Path(path) / CHECKPOINTS / str(step)) for step in sorted(steps)]
