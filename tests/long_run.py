"""A long run made of a short one: real files of the real program, with more steps and rounder numbers put in.

For tests of what is made from a work directory. Every file, field and metric is one that the program has written.
"""

import json
import math
import random
import shutil

from runs import TINY, Program

from t5x_like.telemetry.writer import SAMPLES_FILE, MetricsWriter, read_metrics

SEQUENCE_LENGTH, BATCH_SIZE = 32, 4  # of TINY
HOSTILE = "<script>alert('sample')</script> & </textarea><img src=x onerror=alert(1)>"
PROMPTS = ("Fellow citizens", "The state of our union", "We must")
# What a long run ends with, in place of what the short one did.
NUMBERS = {
    "validation/bits_per_byte": 1.4192,
    "validation/loss": 3.8331,
    "train_seconds": 291.4,
    "tokens_per_second": 5061.3,
    "flops_per_second": 1.32e11,
}

_TEXTS = (
    " the of and in, to that. is which a for be it The,; was by of the of and has",
    " of the Government to the States, and the people of the United States are in the interest of the country.",
    ", I am happy to say that the condition of the Treasury is such that the public debt may be paid as it falls due."
    " The trade with the nations of South America has grown, and our relations with them are most friendly.",
    ", the year that is closing has been one of peace abroad and of steady work at home. We have kept our word to"
    " those who served, and we have paid what we owe.\n\nBut there is more to do. Too many families still wait for a"
    " doctor they can afford, and too many children still go to schools whose roofs leak. I ask the Congress to act on"
    " both, and to do it in this session, with the money that the tariff has already brought in.",
)


def train_once(directory, environment):
    """Trains for a moment, in a process of its own; gives the work directory."""
    evaluators = {
        "validation": {"name": "loss", "every": 10, "tokens": 2000},
        "samples": {"name": "samples", "prompts": PROMPTS, "tokens": 4},
    }
    flags = (f"--config.evaluators={evaluators!r}", f"--workdir={directory / 'run'}")
    Program(directory, environment).run("train", *TINY, *flags)
    return directory / "run"


def write_run(workdir, real_run, *, steps=720, every=10, seed=0):
    """Writes the files of a long run.

    Args:
      workdir: an epath directory, made when missing.
      real_run: what `train_once` gave.
      steps: how far the run came.
      every: steps between metric lines.
      seed: what noise the curves get.
    """
    shutil.copytree(real_run, workdir, dirs_exist_ok=True, ignore=shutil.ignore_patterns("checkpoints", "report.html"))
    lines = read_metrics(workdir)
    train = next(line for line in reversed(lines) if "train/loss" in line)
    validation = next(line for line in lines if "validation/loss" in line)
    writer = MetricsWriter(workdir, tensorboard=False, resume_step=None)
    noise = random.Random(seed)
    for step in range(every, steps + 1, every):
        writer.write(step, _replaced(train, _train_metrics(step, steps, noise)))
    for step in range(0, steps + 1, max(steps // 9, 1)):
        loss = _loss(step, steps) + 0.04
        curve = {"validation/loss": loss, "validation/bits_per_byte": loss / math.log(2) / 3.9}
        writer.write(step, _replaced(validation, curve))
        position = min(4 * step // max(steps, 1), 3)
        if step % (2 * max(steps // 9, 1)) == 0:
            writer.write_text(step, {f"samples/{prompt}": prompt + _TEXTS[position] for prompt in PROMPTS})
    writer.write_text(steps, {f"samples/{PROMPTS[0]}": PROMPTS[0] + " " + HOSTILE})
    writer.close()
    assert (workdir / SAMPLES_FILE).exists()
    _change(workdir / "experiment.json", {"steps": steps})
    tokens = {"train_tokens": steps * SEQUENCE_LENGTH * BATCH_SIZE}
    _change(workdir / "summary.json", {"step": steps, **tokens, **NUMBERS})


def _loss(step, steps):
    done = step / max(steps, 1)
    return 3.55 + 4.75 * math.exp(-done * 11) + 0.55 * (1 - done)


def _train_metrics(step, steps, noise):
    done = step / steps
    waiting = 0.004 * noise.random() + (0.21 if noise.random() < 0.02 else 0)
    return {
        "train/loss": _loss(step, steps) + noise.gauss(0, 0.07),
        "train/accuracy": 0.34 * (1 - math.exp(-done * 6)) + noise.gauss(0, 0.004),
        "train/learning_rate": 0.02 * min(1, step / 40, 0.1 + 0.45 * (1 + math.cos(math.pi * done))),
        "train/gradient_norm": 0.5
        + 2.5 * math.exp(-done * 14)
        + abs(noise.gauss(0, 0.06))
        + 6 * (noise.random() < 0.01),
        "train/tokens_per_second": 5060 + noise.gauss(0, 60) - 900 * (noise.random() < 0.03),
        "train/data_wait_share": waiting,
        "data/fill_fraction": 0.999 + 0.001 * noise.random(),
        "train/skipped_steps": 0,
        "memory/host_peak_bytes": 1.31e9 + 2e7 * done,
    }


def _replaced(line, values):
    """A line of the real run with other values; only names that the program has written."""
    assert values.keys() <= line.keys(), sorted(values.keys() - line.keys())
    return {name: value for name, value in {**line, **values}.items() if name != "step" and value is not None}


def _change(file, values):
    """Gives fields of a JSON file other values; only fields that are there."""
    found = json.loads(file.read_text())
    assert values.keys() <= found.keys(), sorted(values.keys() - found.keys())
    file.write_text(json.dumps(found | values, indent=2) + "\n")
