"""An adapter for a model that was trained before: small commits, a kill on the way, and what is made of it then."""

import json
import signal

from runs import TINY, committed, exact, lines, same_bits, wait_for_line

ADAPTED = (
    "--config.adaptations.low_rank={'name': 'lora', 'rank': 2}",
    "--config.initialize.missing=('**.adapter.*',)",
    "--config.steps=60",
    "--config.checkpoint.every=7",
    "--config.evaluators.validation.every=60",
    "--config.evaluators.samples.every=60",
)


def size(directory):
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


def test_an_adapter_of_a_model_that_was_trained_before(program, tmp_path):
    base, whole, killed = (tmp_path / name for name in ("base", "whole", "killed"))
    program.train(base, "--config.steps=3", "--config.evaluators={}", "--config.checkpoint.best_metric=")
    flags = (*ADAPTED, f"--config.initialize.checkpoint={base}")
    _, err = program.train(whole, *flags)
    assert "4 fresh" in err

    # What was there is stored once; a commit has what is trained, and the optimizer's state of that.
    checkpoints = whole / "checkpoints"
    steps = [path for path in checkpoints.iterdir() if path.name.isdigit()]
    assert len(steps) == 3
    [frozen] = (checkpoints / "frozen").iterdir()
    (theirs, _), (ours, _) = committed(base, 3), committed(whole, 60)
    model = {path: array for path, array in theirs.items() if path.startswith("parameters.")}
    weight = sum(array.nbytes for array in model.values())
    assert size(frozen) > weight > 5 * max(map(size, steps))
    trained = {path for path in ours if path.startswith("parameters.")}
    layer = "parameters.blocks.layer.attention"
    assert trained == {f"{layer}.{name}.adapter.lora_{factor}" for name in ("query", "value") for factor in "ab"}
    manifest = json.loads((checkpoints / "60" / "manifest" / "manifest.json").read_text())
    described = {path: leaf for path, leaf in manifest["leaves"].items() if path.startswith("model_state.")}
    assert {path.removeprefix("model_state.") for path in described} == {
        path.removeprefix("parameters.") for path in model
    }
    assert all(leaf["frozen"] for leaf in described.values())
    assert all(array.size <= 4 * 16 for path, array in ours.items() if path.startswith("optimizer.")), (
        "the optimizer has state for nothing that is frozen"
    )

    # A kill on the way changes nothing.
    process = program.start("train", *TINY, f"--workdir={killed}", *flags)
    assert wait_for_line(process, killed, 20)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    _, err = program.train(killed, *flags)
    assert "going on from step" in err
    same_bits(committed(killed, 60), (ours, committed(whole, 60)[1]))
    assert exact(killed) == exact(whole)

    # The checkpoint is whole: the base is not needed any more.
    base.rename(tmp_path / "gone")
    out, _ = program.run("evaluate", f"--checkpoint={whole}", "--json")
    measured = {name: value for line in lines(whole) for name, value in line.items() if name == "validation/loss"}
    assert json.loads(out)["validation/loss"] == measured["validation/loss"]
    out, _ = program.run("generate", f"--checkpoint={whole}", "--prompt=The", "--tokens=4", "--temperature=0")
    assert out.startswith("The")

    # The table and the report tell what is trained from what is not.
    rows = {row["path"]: row for row in json.loads((whole / "parameters.json").read_text())}
    roles = {"parameters." + path.replace("/", "."): row["role"] for path, row in rows.items()}
    assert roles == dict.fromkeys(model, "frozen") | dict.fromkeys(trained, "trained")
    report = (whole / "report.html").read_text()
    number = sum(row["count"] for row in rows.values() if row["role"] == "trained")
    assert "trained parameters" in report and f"trained {number:,} (" in report and "<th>role</th>" in report
    assert "<th>role</th>" not in (tmp_path / "gone" / "report.html").read_text()
