"""A user's module: an evaluator that kills the process, or fails, at the moment that the variable DIE names."""

import dataclasses
import os
import signal
import sys

from t5x_like import registry
from t5x_like.evaluation.base import Evaluation, EvaluationContext, Evaluator

# Such as "first@10": the evaluator `first` begins at step 10; or "open@10", "rename@10": of its evaluation.json.
_MOMENT, _, _STEP = os.environ.get("DIE", "").partition("@")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeadlyEvaluator:
    """Options; `moment` is what DIE must begin with."""

    name: str = "deadly"
    moment: str = ""
    every: int = 0

    def start(self, context: EvaluationContext) -> "Deadly":
        return Deadly(self.moment)


class Deadly(Evaluator):
    def __init__(self, moment: str) -> None:
        self.moment = moment

    def run(self, state, step: int) -> Evaluation:
        if str(step) == _STEP and self.moment == _MOMENT:
            os.kill(os.getpid(), signal.SIGKILL)
        if str(step) == _STEP and f"{self.moment}-raises" == _MOMENT:
            raise ValueError("the judge is not there\nand more")
        return Evaluation({"step": float(step)})


def _watch(event: str, arguments: tuple) -> None:
    its = bool(arguments) and f"/{_STEP}/.evaluation.json" in str(arguments[0])
    if its and event in ("open", "os.rename") and event.removeprefix("os.") == _MOMENT:
        os.kill(os.getpid(), signal.SIGKILL)


sys.addaudithook(_watch)
registry.register("evaluator", "deadly", f"{__name__}:DeadlyEvaluator")
