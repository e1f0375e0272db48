"""Runs tests again and again under load, and reads XLA's log for collectives that overlap or that are stuck.

    nice .venv/bin/python tools/stress_collectives.py --runs=100 --load=3 tests/parallel/test_strategies.py -k fsdp

On a mesh of one CPU's devices each collective must have all its devices before a device goes on to the next. Where a
device goes on earlier, the order of the two collectives is lost and the devices may come to wait for each other for
good, however rarely (`t5x_like/parallel/collective_order.py`). So a run counts overlaps, which are seen long before a
run that hangs is. `--unguarded` takes the guard away, to see what it is for.

Prints a line a run and a table at the end; the logs of runs that failed stay in `--logs`.
"""

import argparse
import collections
import itertools
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

# The one line that XLA logs for each device that begins a collective.
_BEGUN = re.compile(
    r"I\d+ (\d+):(\d+):([\d.]+) +\d+ collective_thunk\.cc:\d+\] +rank=(\d+), key=RendezvousKey\{run_id=RunId: (-?\d+),"
    r" global_devices=\[([\d, ]*)\], .*op_id=(\d+)"
)
# And the one of a device that has waited too long.
_STUCK = re.compile(
    r"waiting for `(.*?) RendezvousKey\{run_id=RunId: (-?\d+), global_devices=\[([\d, ]*)\], .*?op_id=(\d+)"
)
_RESOLUTION = 1e-5  # seconds; two lines of the log nearer to each other say nothing of their order

_BUSY = "while True: sum(range(10**6))"
_UNGUARDED = "import t5x_like.compat as c; c.filter_compilation_cache = lambda *_: None"


def overlaps(lines: Iterable[str]) -> tuple[int, collections.Counter[tuple[int, int]]]:
    """Pairs of collectives that follow each other on a device, and how often the second began too early.

    Args:
      lines: XLA's log with `collective_thunk=3`.

    Returns:
      The number of pairs, and by (first, second), each a collective's `op_id`, those in which a device began the
      second before all devices had begun the first.
    """
    number: collections.Counter[tuple] = collections.Counter()
    begun: dict[tuple, dict[int, float]] = collections.defaultdict(dict)
    for line in lines:
        if match := _BEGUN.match(line):
            hours, minutes, seconds, rank, run, devices, op = match.groups()
            device = int(devices.split(",")[int(rank)])
            collective = (run, devices, int(op))
            instance = number[collective, device]
            number[collective, device] += 1
            begun[*collective, instance][device] = 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    by_device: dict[tuple, list] = collections.defaultdict(list)
    for collective, times in begun.items():
        for device, at in times.items():
            by_device[collective[0], device].append((at, collective))
    pairs, early = 0, collections.Counter()
    for each in by_device.values():
        each.sort()
        for (_, first), (at, second) in itertools.pairwise(each):
            pairs += 1
            early[first[2], second[2]] += at < max(begun[first].values()) - _RESOLUTION
    return pairs, +early


def stuck(lines: Iterable[str]) -> dict[str, list[int]]:
    """The collectives in which devices have waited too long, each with the devices that have not come to it.

    Args:
      lines: XLA's log with `collective_thunk=3`.
    """
    begun: collections.Counter[tuple] = collections.Counter()
    found: dict[str, tuple] = {}
    for line in lines:
        if match := _BEGUN.match(line):
            *_, rank, run, devices, op = match.groups()
            begun[run, devices, op, int(devices.split(",")[int(rank)])] += 1
        elif match := _STUCK.search(line):
            name, run, devices, op = match.groups()
            found[f"{name}, op_id {op}, of run {run}"] = (run, devices, op)
    missing = {}
    for name, (run, devices, op) in found.items():
        times = {int(device): begun[run, devices, op, int(device)] for device in devices.split(",")}
        missing[name] = [device for device, count in times.items() if count < max(times.values())]
    return missing


def main() -> None:
    """Runs the tests and says what it found; the exit status is 1 where anything overlapped, hung or failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--load", type=int, default=2, help="processes that keep the processors busy meanwhile")
    parser.add_argument("--limit", type=float, default=900, help="seconds after which a run counts as hung")
    parser.add_argument("--logs", type=Path, default=Path("runs/stress"))
    parser.add_argument(
        "--unguarded", action="store_true", help="load programs whose collectives have lost their order"
    )
    options, pytest = parser.parse_known_args()
    options.logs.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "0", "TF_CPP_VMODULE": "collective_thunk=3"}
    command = f"{_UNGUARDED if options.unguarded else ''}\nimport pytest, sys; sys.exit(pytest.main(sys.argv[1:]))"
    busy = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(options.load)]
    outcomes: collections.Counter[str] = collections.Counter()
    try:
        for run in range(options.runs):
            log, began = options.logs / f"{run}.log", time.monotonic()
            with log.open("wb") as written:
                try:
                    status = subprocess.run(
                        [sys.executable, "-X", "faulthandler", "-c", command, "-q", "-s", *pytest],
                        env=environment,
                        stdout=written,
                        stderr=subprocess.STDOUT,
                        timeout=options.limit,
                    ).returncode
                except subprocess.TimeoutExpired:
                    status = "hung"
            text = log.read_text(errors="replace")
            pairs, early = overlaps(text.splitlines())
            waiting = stuck(text.splitlines())
            good = status == 0 and not early and not waiting
            outcomes["good" if good else "bad"] += 1
            named = "; ".join(f"{name}, waits for devices {devices}" for name, devices in waiting.items())
            print(
                f"run {run}: status {status}, {time.monotonic() - began:.0f} s, {pairs} pairs, {early.total()} overlap"
                f" {dict(early.most_common(3))}; stuck: {named or 'none'}",
                flush=True,
            )
            if good:
                log.unlink()
    finally:
        for process in busy:
            process.kill()
    print(", ".join(f"{count} {outcome}" for outcome, count in outcomes.items()))
    sys.exit(bool(outcomes["bad"]))


if __name__ == "__main__":
    main()
