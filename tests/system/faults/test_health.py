"""Training that goes wrong: a loss spike, steps that are not finite, a flipped bit; and what may save a run."""

import json

import pytest
from runs import TINY, Program, lines
from system.faults.job import MODULE, said

from t5x_like.io.events import read_events

SPIKY = (
    *TINY,
    f"--module={MODULE}",
    "--config.steps=60",
    "--config.checkpoint.every=10",
    "--config.checkpoint.keep=9",
    "--config.evaluators={}",
    "--config.checkpoint.best_metric=",
    "--config.model.dropout=0.0",
    "--config.health.spike_factor=6",
    "--config.health.spike_steps=2",
    "--config.health.rollbacks=2",
)


def events_of(workdir):
    from etils import epath

    return [f"{event['event']}: {event['text']}" for event in read_events(epath.Path(workdir))]


@pytest.mark.slow
def test_14_a_spike_is_gone_around_and_stays_so_after_a_later_resume(tmp_path, hasty_environment):
    program = Program(tmp_path, {**hasty_environment, "SPOILED": "180:220"})
    workdir = tmp_path / "run"
    program.run("train", *SPIKY, f"--workdir={workdir}")
    [rollback] = said(events_of(workdir), "rollback: the loss has spiked")
    [entry] = json.loads((workdir / "recoveries.json").read_text())
    assert f"back to the commit of step {entry['step']}, and examples" in rollback
    begin, end = entry["skip"]
    assert begin <= 180 < end and entry["step"] < entry["first"] <= entry["diverged"]
    assert [line["step"] for line in lines(workdir)] == list(range(1, 61)), "the metrics are of one run"
    manifest = json.loads((workdir / "checkpoints" / "60" / "manifest" / "manifest.json").read_text())
    assert manifest["meta"]["experiment"]["data"]["skip"] == [[begin, end]]
    program.run("train", *SPIKY, f"--workdir={workdir}", "--config.steps=70")
    manifest = json.loads((workdir / "checkpoints" / "70" / "manifest" / "manifest.json").read_text())
    assert manifest["meta"]["experiment"]["data"]["skip"] == [[begin, end]]
    assert len(json.loads((workdir / "recoveries.json").read_text())) == 1


@pytest.mark.slow
def test_a_run_goes_on_with_another_rate_where_its_user_says_so(tmp_path, hasty_environment):
    program, workdir = Program(tmp_path, hasty_environment), tmp_path / "run"
    flags = ("--config.evaluators={}", "--config.checkpoint.best_metric=", "--config.steps=12")
    flags += ("--config.optimizer.nonfinite_limit=2",)
    sgd = "--config.optimizer={'name': 'sgd', 'schedule': 'constant', 'clip_norm': 0, 'learning_rate': %s}"
    program.train(workdir, *flags, sgd % "0.01", "--config.steps=5")
    _, err = program.train(workdir, *flags, sgd % "1e38", status=2)
    assert "optimizer.learning_rate was 0.01 and is 1e+38; give another --workdir, or go on with it all the same" in err
    program.train(workdir, *flags, sgd % "0.001", "--accept-changes")
    [changed] = [event for event in events_of(workdir) if event.startswith("changed: ") and "0.001" in event]
    assert changed.endswith("with optimizer.learning_rate 0.001 where it was 0.01")
    step = max(int(path.name) for path in (workdir / "checkpoints").iterdir())
    manifest = json.loads((workdir / "checkpoints" / str(step) / "manifest" / "manifest.json").read_text())
    assert step == 12 and manifest["meta"]["changes"] == [
        {"step": 5, "fields": {"optimizer.learning_rate": [0.01, 0.001]}}
    ]


@pytest.mark.slow
def test_25_a_flipped_bit_is_found_and_named_and_never_committed(submit, undisturbed):
    job = submit("--config.health.replicas_every=4", fault="flip@13:1")
    events = job.finish()
    [failed] = said(events, "failed: the copies of parameters.")
    assert "are not the same after step 16" in failed and "of process 1" in failed
    ended = [event["status"] for event in job.events() if event["event"] == "ended"]
    assert ended == [77, 77, 0, 0]
    said(events, "restart: started again from the commit of step 10")
    assert job.digest() == undisturbed


@pytest.mark.slow
def test_24_a_slow_host_is_named(submit):
    job = submit("--config.steps=60", fault="slow@:1")
    [first, *_] = said(job.finish(), "straggler: ")
    assert first.startswith("straggler: process 1 keeps the others waiting: it needs 0.")
