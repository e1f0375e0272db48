"""The summary of a finished run."""

import json

import pytest
from etils import epath

from t5x_like import summary, train
from t5x_like.commits import Totals
from t5x_like.experiment import Experiment
from t5x_like.telemetry.throughput import Speed


@pytest.mark.parametrize("told", [True, False])
def test_memory_by_the_plan_stands_beside_what_the_device_tells(tmp_path, capsys, told):
    experiment = Experiment.from_dict({"steps": 4, "model": {"family": "llama", "size": "1b"}})
    line = {"step": 4, "train/loss": 1.0, "memory/host_peak_bytes": 5.0, "memory/device_predicted_bytes": 3 * 2.0**30}
    line |= {"memory/device_peak_bytes": 4 * 2.0**30} if told else {}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    outcome = train.TrainingResult(4, None, Totals(), Speed(4, 100, 1.0, 0.0), 1.0)
    found = summary.write(experiment, epath.Path(tmp_path), outcome)
    assert ("device_peak_bytes" in found) == told
    summary.show(found, epath.Path(tmp_path))
    shown = " ".join(capsys.readouterr().out.split())
    assert ("4.00 GiB of a device, where the compiled step needs 3.00" in shown) == told
    page = (tmp_path / "report.html").read_text()
    assert ("memory by the plan" in page) == told
