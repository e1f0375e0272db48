"""When each stage of a pipeline computes what: GPipe's schedule, and the circular one.

Layers are cut into groups, and group g is stage g mod stages' own. A microbatch goes from each stage to the next; with
several rounds it comes back to the first stage as often, and the groups are smaller. The stages are idle only while the
pipeline fills and empties, for stages − 1 turns of a group each: the more rounds, the shorter (interleaved stages,
Narayanan et al. 2021, section 2.2).

As many microbatches as there are stages go round together. The last stage's answer is then back at the first stage just
when that is free for it, and waits nowhere.
"""

import dataclasses
from typing import Any, NamedTuple

from t5x_like.parallel.layout import Layout


class Work(NamedTuple):
    """What a stage does in a turn; integers or arrays of them.

    Attributes:
      is_real: whether there is anything to do; the rest is in range even where there is not.
      microbatch: whose turn it is.
      round: how often it has been in this stage before.
    """

    is_real: Any
    microbatch: Any
    round: Any


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A pipeline's schedule.

    Attributes:
      stages: through which every microbatch passes.
      microbatches: with several rounds a multiple of the stages.
      rounds: how often.
    """

    stages: int
    microbatches: int
    rounds: int = 1

    @property
    def turns(self) -> int:
        """From the first microbatch's start to the last one's end."""
        return self.microbatches * self.rounds + self.stages - 1

    @property
    def bubble(self) -> float:
        """The share of its turns in which a stage has nothing to do."""
        return (self.stages - 1) / self.turns

    def work(self, stage: Any, turn: Any) -> Work:
        """What a stage does in a turn.

        Args:
          stage: its number.
          turn: the turn's number; integer or array.
        """
        number = turn - stage  # every stage does what the first one did so many turns before
        is_real = (number >= 0) & (number < self.microbatches * self.rounds)
        number = number * is_real
        if self.rounds == 1:
            return Work(is_real, number, 0 * number)
        together = number // (self.stages * self.rounds)
        within = number % (self.stages * self.rounds)
        return Work(is_real, together * self.stages + within % self.stages, within // self.stages)


def of(layout: Layout, rows: int) -> Schedule | None:
    """The schedule in which a layout's stages compute so many rows; None where there is nothing to schedule.

    That is with one stage, and for rows that the microbatches and devices do not divide.
    """
    if layout.stages == 1:
        return None
    made = Schedule(layout.stages, layout.stage_microbatches, layout.stage_rounds)
    here = layout.divisor_in_stage("batch")
    return None if rows % (here * made.stages) or rows % (here * made.microbatches) else made
