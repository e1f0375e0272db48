"""The stress tool reads XLA's log of collectives: which overlap, and which devices a stuck one waits for."""

import importlib.util
from pathlib import Path

import pytest

PATH = Path(__file__).resolve().parent.parent / "tools" / "stress_collectives.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("stress_collectives", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def key(op, run=-18, devices="0, 1"):
    return (
        f"RendezvousKey{{run_id=RunId: {run}, global_devices=[{devices}], num_local_participants=2,"
        f" collective_op_kind=cross_module, op_id={op}}}"
    )


def begun(milliseconds, rank, op, **others):
    place = f"I1127 17:19:20.{milliseconds:03}000   1404{rank} collective_thunk.cc:219]"
    return f"{place}   rank={rank}, key={key(op, **others)}"


def waits(op):
    place = "E1127 17:24:24.714842    2165 rendezvous.cc:116]"
    return f"{place} [id=0] This thread has been waiting for `all gather {key(op)}` for 10 seconds"


def test_collectives_in_one_order_on_all_devices_do_not_overlap(tool):
    lines = [begun(1, 0, 5), begun(2, 1, 5), begun(3, 1, 6), begun(4, 0, 6), begun(5, 0, 5), begun(6, 1, 5)]
    assert tool.overlaps(["", *lines, "something else"]) == (4, {})


def test_one_that_begins_before_all_have_come_to_the_last_is_counted(tool):
    lines = [begun(1, 0, 5), begun(2, 0, 6), begun(3, 1, 5), begun(4, 1, 6)]
    assert tool.overlaps(lines) == (2, {(5, 6): 1})


def test_other_groups_and_other_runs_are_other_collectives(tool):
    lines = [
        begun(1, 0, 5, devices="2, 3"),
        begun(2, 1, 5, devices="2, 3"),
        begun(3, 0, 5, run=7),
        begun(4, 1, 5, run=7),
    ]
    assert tool.overlaps(lines) == (0, {})


def test_a_stuck_collective_names_the_devices_that_have_not_come(tool):
    lines = [begun(1, 0, 5), begun(2, 1, 5), begun(3, 1, 5), waits(5)]
    assert tool.stuck(lines) == {"all gather, op_id 5, of run -18": [0]}
    assert tool.stuck(lines[:3]) == {}
