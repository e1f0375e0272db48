"""Where the time of a run went: accounts of a process that nest, and a ledger over processes that sums to wall time."""

import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest
from etils import epath

from t5x_like.distributed.accounts import TimeAccounts
from t5x_like.telemetry import goodput
from t5x_like.telemetry.goodput import Goodput


class Clock:
    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        return self.now


def test_every_second_is_in_one_account():
    clock = Clock()
    accounts = TimeAccounts(clock, before=2.0)
    clock.now += 3
    with accounts.of("step"):
        clock.now += 5
        with accounts.of("data_wait"):
            clock.now += 7
            assert accounts.seconds() == {"setup": 5, "step": 5, "data_wait": 7}
        clock.now += 11
    with accounts.of("save"):
        clock.now += 13
    clock.now += 17
    assert accounts.seconds() == {"setup": 22, "step": 16, "data_wait": 7, "save": 13}
    assert sum(accounts.seconds().values()) == clock.now - 1000 + 2


def test_a_second_run_of_a_process_has_accounts_of_its_own():
    clock = Clock()
    accounts = TimeAccounts(clock, before=2.0)
    accounts.begin()
    clock.now += 3
    assert accounts.seconds() == {"setup": 5}
    accounts.begin()
    clock.now += 4
    assert accounts.seconds() == {"setup": 4}


def test_over_restarts_the_ledger_sums_to_the_time_since_the_beginning(tmp_path):
    workdir, now = epath.Path(tmp_path), Clock()
    first = Goodput(workdir, lambda: {"setup": 10.0, "step": 90.0}, fresh=True, now=now)  # it began at 900
    first.write()
    (tmp_path / "metrics.jsonl").write_text("")
    os.utime(tmp_path / "metrics.jsonl", (1040, 1040))  # it went on for 40 s, and was killed
    now.now = 1115.0
    second = Goodput(workdir, lambda: {"setup": 15.0}, now=now)  # it began at 1100
    assert second.totals() == {"setup": 25, "step": 90, "lost": 40, "down": 60}
    assert sum(second.totals().values()) == 1115 - 900
    second.write()
    assert goodput.read(workdir) == second.totals()
    assert json.loads((workdir / "goodput.json").read_text())["effective_share"] == pytest.approx(90 / 215)
    assert goodput.sentence(second.totals()) == "41.9% of the time in steps (down 27.9%, lost 18.6%, setup 11.6%)"


DAMAGED = ("", "{", '{"seconds": 3, "written": 1.0}', '{"seconds": {"a": "b"}, "written": 1.0}')


@pytest.mark.parametrize("content", DAMAGED)
def test_a_ledger_that_cannot_be_read_counts_for_nothing(tmp_path, content):
    (tmp_path / "goodput.json").write_text(content)
    assert Goodput(epath.Path(tmp_path), lambda: {"step": 1.0}).totals() == {"step": 1.0}
    assert goodput.read(epath.Path(tmp_path)) == {}


def test_a_clock_that_was_set_back_adds_nothing(tmp_path):
    now = Clock()
    Goodput(epath.Path(tmp_path), lambda: {"step": 5.0}, fresh=True, now=now).write()
    now.now = 500.0
    assert Goodput(epath.Path(tmp_path), lambda: {"step": 1.0}, now=now).totals() == {"step": 6, "lost": 0, "down": 0}


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("goodput_tool", Path(__file__).parents[2] / "tools" / "goodput.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_a_simulated_run_sums_to_its_time_and_frequent_commits_lose_less(tool):
    def run(**options):
        usual = {"chips": 16384, "days": 60, "commit_every": 600, "save_stall": 1, "local_every": 0, "local_stall": 0}
        usual |= {"replicas": False, "restart": 300, "local_restart": 100}
        return tool.average(tool.Job(**usual | options), 5)

    usual = run()
    assert usual.effective + usual.saving + usual.lost + usual.restarting == pytest.approx(1)
    assert 450 < usual.interruptions < 580, "466 in 54 days are 518 in 60"
    assert run(commit_every=60).lost < usual.lost / 5 and run(commit_every=60).saving > usual.saving * 5
    assert run(local_every=30, replicas=True).lost < usual.lost / 10
    assert run(chips=1).effective > 0.998
    assert tool.recommended(16384, 1) == pytest.approx((2 * 54 * 86400 / 466) ** 0.5)
