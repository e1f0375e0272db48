"""Two real processes train as this one does; what else there is to several is in `test_multi_process.py`."""

import json

import pytest
from etils import epath
from runs import lines
from together import FLAGS, STEPS, Together, losses

from t5x_like.frontends import configdict
from t5x_like.train import RunOptions, train

QUICK = (
    "--config.data.batch_size=8",
    "--config.evaluators={}",
    "--config.checkpoint.best_metric=",
    "--config.checkpoint.every=10",
)


def test_two_processes_train_as_one(tmp_path):
    together = Together(tmp_path)
    processes = together.start(tmp_path / "two", 2, *QUICK, "--config.parallelism.fsdp=4", "--json", devices=2)
    try:
        # Meanwhile, on this process's eight devices.
        config, *fields = [*FLAGS, *QUICK]
        experiment = configdict.load(config.removeprefix("--config="), fields)
        alone = train(experiment, epath.Path(tmp_path / "one"), RunOptions(show=False))
        said = [process.communicate(timeout=280) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], said
    assert json.loads(said[0][0])["train_tokens"] == alone.totals.tokens == STEPS * 8 * 32
    assert said[1][0] == ""
    assert len(losses(tmp_path / "one")) == STEPS
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    for line, same in zip(lines(tmp_path / "two"), lines(tmp_path / "one"), strict=True):
        assert {k: v for k, v in line.items() if "data/" in k} == {k: v for k, v in same.items() if "data/" in k}
