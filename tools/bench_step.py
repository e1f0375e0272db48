"""The training program's steady step against the same compiled step in a bare loop, taking turns in one process.

    .venv/bin/python tools/bench_step.py

The bare loop takes batches that are there already and waits for the last result alone. The program
reads, packs, places, logs and watches for NaN. The ratio is bare over program: 1 means that it costs nothing.
"""

import argparse
import contextlib
import json
import statistics
import tempfile
import time

ROUNDS, STEPS = 7, 8


def main() -> None:
    """Prints the two medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--config", default="configs/quickstart.py")
    options, rest = parser.parse_known_args()
    from t5x_like.distributed import startup

    startup.prepare()
    import jax
    from etils import epath

    from t5x_like.data.batches import Feed
    from t5x_like.distributed.host_sync import HostSync
    from t5x_like.frontends import configdict
    from t5x_like.journal import IN_FLIGHT, Journal
    from t5x_like.parallel import layout
    from t5x_like.parallel.placement import place, share
    from t5x_like.program import program
    from t5x_like.step import compiled_step

    experiment = configdict.load(options.config, rest)
    placed = layout.make(experiment.parallelism)
    part = share(placed, experiment.data.batch_size)
    run = program(experiment, placed)
    step, state = compiled_step(run), jax.jit(run.init)()
    source = experiment.data.source.open(experiment)
    with contextlib.ExitStack() as stack:
        batches = stack.enter_context(contextlib.closing(source.start(Feed(run, part.index, part.count))))
        workdir = epath.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        journal = stack.enter_context(contextlib.closing(Journal(experiment, workdir, 0, False)))
        sync = HostSync(part.index, delay=IN_FLIGHT)
        fixed = place(next(batches).batch, placed)
        times: dict[str, list[float]] = {"bare": [], "program": []}
        number = 0
        for turn in range(ROUNDS + 1):
            begin = time.perf_counter()
            for _ in range(STEPS):
                state, results = step(state, fixed)
            jax.block_until_ready(results)
            bare = time.perf_counter() - begin
            begin = time.perf_counter()
            for _ in range(STEPS):
                number += 1
                with journal.throughput.waiting():
                    batch, _, counts = next(batches)
                state, results = step(state, place(batch, placed))
                journal.step(number, results, sync.send(None, counts))
            journal.drain()
            whole = time.perf_counter() - begin
            if turn:  # the first one compiled
                times["bare"].append(bare / STEPS)
                times["program"].append(whole / STEPS)
    medians = {f"{name}_ms": 1e3 * statistics.median(values) for name, values in times.items()}
    ratio = statistics.median(b / p for b, p in zip(times["bare"], times["program"], strict=True))
    if options.json:
        print(json.dumps({**medians, "ratio": ratio}, indent=2))
    else:
        print(f"bare {medians['bare_ms']:.1f} ms, program {medians['program_ms']:.1f} ms, ratio {ratio:.3f}")


if __name__ == "__main__":
    main()
