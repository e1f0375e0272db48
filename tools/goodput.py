"""Simulated goodput of a long run on many chips, by commit interval, tier and restart time.

    python tools/goodput.py --chips=16384 --days=60 --save-stall=0.1 --restart=180

The interruptions are those of Llama 3's 54 days on 16,384 GPUs (Grattafiori et al. 2024, "The Llama 3 Herd of Models",
section 3.3.4 and table 5): 419 unexpected ones by cause, and 47 planned ones. They come at random, at a rate that
grows with the number of chips; each costs the work since the last usable commit and a restart. Where states are kept in
the memory of each host too, a restart takes that tier, unless the cause took a host away without a replica of its part.
"""

import argparse
import dataclasses
import json
import math
import random
from collections.abc import Sequence

DAYS, CHIPS = 54, 16384
# Cause, interruptions in 54 days on 16,384 chips, and whether the host is replaced.
MIX = (
    ("faulty chip", 148, True),
    ("chip memory", 72, True),
    ("software", 54, False),
    ("network switch or cable", 35, False),
    ("unplanned host maintenance", 32, True),
    ("chip SRAM", 19, True),
    ("chip system processor", 17, True),
    ("network card", 7, True),
    ("collective watchdog", 7, False),
    ("silent corruption", 6, True),
    ("thermal", 6, True),
    ("other hardware", 16, True),
    ("planned", 47, False),
)


@dataclasses.dataclass(frozen=True)
class Job:
    """One way to run.

    Attributes:
      chips: how many.
      days: for how long.
      commit_every: seconds between durable commits.
      save_stall: seconds that a durable commit keeps the step waiting.
      local_every: seconds between states kept in local memory; 0 for none.
      local_stall: seconds that one of those keeps the step waiting.
      replicas: whether each part is kept on another host as well.
      restart: seconds from an interruption to the next step, restoring from the store included.
      local_restart: the same from the local tier.
    """

    chips: int
    days: float
    commit_every: float
    save_stall: float
    local_every: float
    local_stall: float
    replicas: bool
    restart: float
    local_restart: float


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Shares of the wall time, which sum to 1, and the number of interruptions."""

    effective: float
    saving: float
    lost: float
    restarting: float
    interruptions: int


def simulate(job: Job, seed: int) -> Outcome:
    """One run, event by event."""
    rng = random.Random(seed)
    rate = sum(count for _, count, _ in MIX) / (DAYS * 86400) * job.chips / CHIPS
    causes, weights = [cause for *_, cause in MIX], [count for _, count, _ in MIX]
    now = effective = saving = lost = restarting = 0.0
    end, interruptions = job.days * 86400, 0
    overhead = job.save_stall / job.commit_every + (job.local_stall / job.local_every if job.local_every else 0.0)
    while now < end:
        span = min(rng.expovariate(rate), end - now)
        trained = span / (1 + overhead)  # of it, seconds in steps
        saving += span - trained
        now += span
        if now >= end:
            effective += trained
            break
        interruptions += 1
        replaced = rng.choices(causes, weights)[0]
        local = bool(job.local_every) and (not replaced or job.replicas)
        since = math.fmod(trained, job.local_every if local else job.commit_every)
        effective, lost = effective + trained - since, lost + since
        pause = min(job.local_restart if local else job.restart, end - now)
        restarting, now = restarting + pause, now + pause
    total = effective + saving + lost + restarting
    return Outcome(effective / total, saving / total, lost / total, restarting / total, interruptions)


def average(job: Job, seeds: int) -> Outcome:
    """The mean over several runs."""
    runs = [dataclasses.astuple(simulate(job, seed)) for seed in range(seeds)]
    *shares, interruptions = (sum(column) / len(runs) for column in zip(*runs, strict=True))
    return Outcome(*shares, round(interruptions))


def recommended(chips: int, save_stall: float) -> float:
    """Seconds between commits by Young's first-order optimum, √(2 · stall · mean time between interruptions)."""
    between = DAYS * 86400 / sum(count for _, count, _ in MIX) * CHIPS / chips
    return math.sqrt(2 * save_stall * between)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table, or JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--chips", type=int, default=CHIPS)
    parser.add_argument("--days", type=float, default=60)
    parser.add_argument("--save-stall", type=float, default=1.0, help="seconds; see tools/bench_checkpoint.py")
    parser.add_argument("--local-stall", type=float, default=0.5, help="seconds")
    parser.add_argument("--local-every", type=float, default=60.0, help="seconds")
    parser.add_argument("--restart", type=float, default=300.0, help="seconds")
    parser.add_argument("--local-restart", type=float, default=120.0, help="seconds")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    best = recommended(options.chips, options.save_stall)
    if not options.json:
        print(f"{options.chips} chips, {options.days:g} days; recommended: a commit every {best:.0f} s")
        print(f"{'commit every':>13} {'tier':>15} {'effective':>10} {'saving':>8} {'lost':>8} {'restarts':>9}")
    for every in sorted({best, 300.0, 600.0, 1800.0, 3600.0}):
        for tier, local, replicas in (("durable", 0.0, False), ("local", options.local_every, False),
                                      ("local, replicas", options.local_every, True)):  # fmt: skip
            job = Job(
                options.chips, options.days, every, options.save_stall, local, options.local_stall, replicas,
                options.restart, options.local_restart,
            )  # fmt: skip
            found = average(job, options.seeds)
            if options.json:
                print(json.dumps({"commit_every": every, "tier": tier, **dataclasses.asdict(found)}))
            else:
                shares = f"{found.effective:>10.2%} {found.saving:>8.2%} {found.lost:>8.2%} {found.restarting:>9.2%}"
                print(f"{every:>11.0f} s {tier:>15} {shares}")


if __name__ == "__main__":
    main()
