"""A pipeline's schedule, played through."""

import itertools

import pytest

from t5x_like.parallel import layout, schedule
from t5x_like.parallel.schedule import Schedule
from t5x_like.parallelism import Parallelism

SCHEDULES = [Schedule(1, 3), Schedule(4, 6), Schedule(4, 2), Schedule(2, 4, 3), Schedule(4, 8, 2)]


@pytest.mark.parametrize("plan", SCHEDULES, ids=str)
def test_every_microbatch_meets_every_group_of_layers_in_order(plan):
    """What a stage is sent in a turn is what it takes up in the next one, or the first stage takes a new microbatch."""
    groups_done = dict.fromkeys(range(plan.microbatches), 0)
    sent = [None] * plan.stages
    idle = 0
    for turn in range(plan.turns):
        arrived, sent = [sent[-1], *sent[:-1]], [None] * plan.stages
        for stage in range(plan.stages):
            work = plan.work(stage, turn)
            assert 0 <= work.microbatch < plan.microbatches and 0 <= work.round < plan.rounds
            if not work.is_real:
                idle += 1
                continue
            group = work.round * plan.stages + stage
            assert groups_done[work.microbatch] == group
            assert arrived[stage] == (work.microbatch, group - 1) or group == 0
            groups_done[work.microbatch] += 1
            sent[stage] = (work.microbatch, group)
    assert set(groups_done.values()) == {plan.stages * plan.rounds}
    assert idle / (plan.turns * plan.stages) == pytest.approx(plan.bubble)


def test_more_rounds_and_more_microbatches_idle_less():
    shares = [Schedule(4, parts, rounds).bubble for parts, rounds in [(4, 1), (8, 1), (8, 2), (8, 4)]]
    assert all(more > less for more, less in itertools.pairwise(shares))
    assert shares[0] == 3 / 7


def test_a_layout_without_stages_or_with_other_rows_has_no_schedule():
    made = layout.make(Parallelism(fsdp=2, stage=4))
    assert schedule.of(made, 8) == Schedule(4, 4)
    assert schedule.of(made, 12) is None
    assert schedule.of(layout.make(Parallelism()), 8) is None
    assert schedule.of(layout.Layout(), 8) is None
