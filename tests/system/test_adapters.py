"""`t5x_like adapters` as a user runs it: merge, unmerge, to `peft`'s folder and back."""

import json

import numpy as np
from runs import committed

FLAGS = ("--config.evaluators={}", "--config.checkpoint.best_metric=")


def parameters(workdir, step):
    """The model's arrays by path."""
    return {
        path.partition(".")[2]: array
        for path, array in committed(workdir, step)[0].items()
        if path.split(".")[0] in ("parameters", "model_state")
    }


def losses(program, workdir):
    """The log-probabilities of a few texts."""
    output = f"{workdir}.jsonl"
    program.run("infer", f"--checkpoint={workdir}", "--mode=score", "--input=texts.jsonl", f"--output={output}")
    return [json.loads(line)["log_probability"] for line in (program.directory / output).read_text().splitlines()]


def test_adapters_are_merged_taken_out_and_exchanged(program, tmp_path):
    records = [{"prompt": "The state", "continuation": f" of the Union {i}"} for i in range(3)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    program.train(tmp_path / "base", "--config.steps=3", *FLAGS)
    program.train(
        tmp_path / "adapted", "--config.steps=8", *FLAGS, "--config.initialize.checkpoint=base",
        "--config.adaptations.low_rank={'name': 'lora', 'rank': 2, 'alpha': 64.0}",
        "--config.initialize.missing=('**.adapter.*',)", "--config.optimizer.learning_rate=0.05",
    )  # fmt: skip
    expected = losses(program, "adapted")
    program.run("adapters", "merge", "--checkpoint=adapted", "--output=merged")
    np.testing.assert_allclose(losses(program, "merged"), expected, rtol=1e-5)
    assert abs(np.subtract(losses(program, "base"), expected)).max() > 0.01
    base, merged = parameters(tmp_path / "base", 3), parameters(tmp_path / "merged", 8)
    assert merged.keys() == base.keys()
    query = "blocks.layer.attention.query.kernel"
    assert np.abs(merged[query] - base[query]).max() > 1e-3

    program.run("adapters", "unmerge", "--checkpoint=merged", "--adapters=adapted", "--output=apart")
    np.testing.assert_allclose(losses(program, "apart"), expected, rtol=1e-5)

    out, _ = program.run("adapters", "export", "--checkpoint=adapted", "--output=folder", "--json")
    assert json.loads(out) == {"output": "folder", "tensors": 4}
    config = json.loads((tmp_path / "folder" / "adapter_config.json").read_text())
    assert config["r"] == 2 and config["peft_type"] == "LORA" and len(config["target_modules"]) == 2
    program.run("adapters", "import", "--path=folder", "--checkpoint=base", "--output=back")
    np.testing.assert_allclose(losses(program, "back"), expected, rtol=1e-6)

    for arguments, sentence in [
        (("merge", "--checkpoint=base", "--output=x"), "has no adaptations; there is nothing to merge"),
        (("merge", "--checkpoint=adapted", "--output=merged"), "merged is there already"),
        (("export", "--checkpoint=base", "--output=x"), "has the adaptations none; name one"),
        (("import", "--path=base", "--checkpoint=base", "--output=x"), "base is no folder of peft's"),
        (("import", "--path=folder", "--checkpoint=adapted", "--output=x"), "is adapted already; give the base"),
    ]:
        _, err = program.run("adapters", *arguments, status=2)
        assert sentence in err and err.count("\n") == 1
        assert not (tmp_path / "x").exists()
