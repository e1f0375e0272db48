"""Pipeline schedules: GPipe's, and the circular one.

The layers are divided into groups, and stage s holds the groups g with g mod stages = s. A microbatch passes from each
stage to the next. In the circular schedule it passes through all stages several times (rounds), and the groups are
smaller by as much. The pipeline bubble, in which stages are idle while the pipeline fills and drains, is stages − 1
turns of one group: the more rounds, the smaller (interleaved stages, Narayanan et al. 2021, section 2.2).

The microbatches are scheduled in sets of as many as there are stages. The output of the last stage then reaches the
first stage in the turn in which that stage continues with the same microbatch, so that no output is stored.
"""

import dataclasses
from typing import Any, NamedTuple

from t5x_like.parallel.layout import Layout


class Work(NamedTuple):
    """The work of a stage in one turn; integers or arrays of them.

    Attributes:
      is_real: whether there is any work; the other fields are in range even where there is none.
      microbatch: the number of the microbatch.
      round: how often the microbatch has passed through this stage before.
    """

    is_real: Any
    microbatch: Any
    round: Any


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A pipeline schedule.

    Attributes:
      stages: the number of stages.
      microbatches: the number of microbatches; with several rounds, a multiple of the stages.
      rounds: how often a microbatch passes through all stages.
    """

    stages: int
    microbatches: int
    rounds: int = 1

    @property
    def turns(self) -> int:
        """The number of turns from the first microbatch's start to the last one's end."""
        return self.microbatches * self.rounds + self.stages - 1

    @property
    def bubble(self) -> float:
        """The pipeline bubble: the fraction of its turns in which a stage is idle."""
        return (self.stages - 1) / self.turns

    def work(self, stage: Any, turn: Any) -> Work:
        """The work of a stage in a turn.

        Args:
          stage: the stage's number; integer or array.
          turn: the turn's number; integer or array.
        """
        number = turn - stage  # stage s repeats the work of the first stage s turns later
        is_real = (number >= 0) & (number < self.microbatches * self.rounds)
        number = number * is_real
        if self.rounds == 1:
            return Work(is_real, number, 0 * number)
        group = number // (self.stages * self.rounds)
        within = number % (self.stages * self.rounds)
        return Work(is_real, group * self.stages + within % self.stages, within // self.stages)


def of(layout: Layout, rows: int) -> Schedule | None:
    """The schedule of a layout's stages for a batch of `rows`; None without a pipeline.

    There is no pipeline with one stage, or where microbatches and devices do not divide the rows.
    """
    if layout.stages == 1:
        return None
    made = Schedule(layout.stages, layout.stage_microbatches, layout.stage_rounds)
    here = layout.divisor_in_stage("batch")
    return None if rows % (here * made.stages) or rows % (here * made.microbatches) else made
