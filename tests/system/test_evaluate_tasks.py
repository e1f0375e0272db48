"""`t5x_like evaluate` as a real process: a task with its files beside the checkpoint, and a job that is followed."""

import json
import time


def test_tasks_are_asked_and_each_commit_of_a_job_is_measured_once(program, tmp_path):
    records = [{"q": f"{i}", "choices": ["yes", "no"], "answer": i % 2} for i in range(6)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "a.toml").write_text(
        'name = "parity"\nrecords = "a.jsonl"\ntemplate = "Is {{ q }} odd?"\noptions = "choices"\n'
    )
    flags = (
        "--config.steps=6",
        "--config.checkpoint.every=2",
        "--config.evaluators={}",
        "--config.checkpoint.best_metric=",
    )
    program.train(tmp_path / "run", *flags)
    out, _ = program.run("evaluate", "--checkpoint=run", "--task=a.toml", "--shots=0,2", "--seeds=2", "--json")
    found = json.loads(out)["parity"]
    assert found.keys() == {"0", "2"} and found["0"]["chance"]["mean"] == 0.5
    assert 0 <= found["2"]["accuracy"]["low"] <= found["2"]["accuracy"]["mean"] <= found["2"]["accuracy"]["high"] <= 1
    kept = json.loads((tmp_path / "run/evaluations/6/parity.json").read_text())
    assert kept["shots"] == found and kept["step"] == 6
    assert "accuracy_pmi" in (tmp_path / "run/evaluations/6/parity.html").read_text()

    # The followed job has ended: its earlier commits are measured, the last one was, and a second call finds nothing.
    watch = ("evaluate", "--checkpoint=run", "--task=a.toml", "--watch")
    out, _ = program.run(*watch)
    assert "at step 2" in out and "at step 4" in out and "at step 6" not in out
    again = program.run(*watch)
    assert again == ("", "")
    _, err = program.run("evaluate", "--checkpoint=run", "--task=a.toml", "--shots=x", status=2)
    assert err == "error: --shots is 'x'; it must be numbers from 0 on with commas between, such as 0,1,5\n"
    _, err = program.run("evaluate", "--checkpoint=run", "--task=a.toml", "--shots=6", status=2)
    assert "6 examples are asked for, and there are 5" in err

    # A job that is followed from before its first commit.
    follower = program.start("evaluate", "--checkpoint=later", "--task=a.toml", "--watch")
    time.sleep(1)
    program.train(tmp_path / "later", *flags)
    out, err = follower.communicate(timeout=200)
    assert follower.returncode == 0, err
    assert "at step 6" in out
