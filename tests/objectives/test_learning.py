"""Every objective learns: the tiny experiment of each ends a tenth or more below a baseline that sees no context.

The baseline of a predicted token is the entropy of the validation's own targets, which no model of single tokens goes
below; that of a choice between two classes is their entropy, which always answering the more frequent one cannot beat.
"""

import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from t5x_like.data.evaluation import evaluation_batches
from t5x_like.frontends import configdict

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "configs" / "tiny").glob("*.py"))
SEEDS = (0, 1, 2)
MINUTES = 2.0  # of one CPU, for a seed

# What the loss of an objective is made of besides `loss`: metrics of the evaluation and their weights.
TERMS = {
    "next_sentence": {"loss": 1.0, "pair_loss": 1.0},
    "sentence_order": {"loss": 1.0, "pair_loss": 1.0},
    "span_boundary": {"loss": 1.0, "boundary_loss": 1.0},
    "multi_token_prediction": {"loss": 1.0, "loss_1": 0.3},
    "replaced_tokens": {"generator_loss": 1.0, "discriminator_loss": 50.0},
}


def entropy(counts):
    shares = np.asarray(counts, float)[np.asarray(counts) > 0] / np.sum(counts)
    return float(-(shares * np.log(shares)).sum())


def baselines(name, metrics):
    """By metric, the loss of the best answer that looks at no context."""
    experiment = configdict.load(f"configs/tiny/{name}.py")
    (evaluator,) = experiment.evaluators.values()
    data, tokens, labels = experiment.data, [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    split = data.task.open(evaluator.split).sampled(evaluator.tokens)
    for batch in evaluation_batches(
        split, experiment.objective, sequence_length=data.sequence_length, batch_size=data.batch_size
    ):
        weights = next(batch[w] for w in ("decoder_loss_weights", "weights", "segment_ids") if w in batch)
        targets = batch["decoder_target_tokens" if "decoder_target_tokens" in batch else "targets"]
        tokens.append(targets[weights > 0])
        labels.append(batch["labels"][batch["labels"] > 0] if "labels" in batch else labels[0])
    unigram = entropy(np.bincount(np.concatenate(tokens)))
    found = dict.fromkeys(("loss", "loss_1", "boundary_loss", "generator_loss"), unigram)
    found["pair_loss"] = entropy(np.bincount(np.concatenate(labels)))
    if "replaced" in metrics:
        found["discriminator_loss"] = entropy([metrics["replaced"], 1 - metrics["replaced"]])
    return found


def trained(name, seed, workdir, environment):
    """The last validation metrics of a run of the program, and its CPU minutes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    flags = [f"--config.seed={seed}", "--config.telemetry.tensorboard=False"]
    command = [sys.executable, "-m", "t5x_like", "train", f"--config=configs/tiny/{name}.py", f"--workdir={workdir}"]
    done = subprocess.run([*command, *flags], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    lines = [json.loads(line) for line in (Path(workdir) / "metrics.jsonl").read_text().splitlines()]
    (last,) = [line for line in lines[-3:] if "validation/loss" in line][-1:]
    metrics = {key.removeprefix("validation/"): value for key, value in last.items() if key.startswith("validation/")}
    return metrics, (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 60


def totals(name, metrics):
    """The loss of the metrics, and that of the baselines."""
    terms, least = TERMS.get(name, {"loss": 1.0}), baselines(name, metrics)
    return tuple(sum(weight * of[term] for term, weight in terms.items()) for of in (metrics, least))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_learns(name, tmp_path, program_environment):
    runs = [trained(name, seed, tmp_path / str(seed), program_environment) for seed in SEEDS]
    ours, baseline = np.mean([totals(name, metrics) for metrics, _ in runs], axis=0)
    assert ours <= 0.9 * baseline, (ours, baseline, runs)
    assert max(minutes for _, minutes in runs) <= MINUTES
    if name == "replaced_tokens":  # always answering "original" finds nothing: its F1 is 0
        assert min(metrics["f1"] for metrics, _ in runs) > 0.1
