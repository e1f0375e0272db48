"""Work directories that the program of the first schema wrote are gone on with, and used, as if this one had."""

import io
import json
import tarfile
from pathlib import Path

import pytest
import zstandard
from runs import Program, lines

from tools import golden_losses

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
EXPECTED = json.loads((GOLDEN / "workdir_schema1.json").read_text())


@pytest.fixture(params=["llama", "t5_1_1"])
def run(request, tmp_path, hasty_environment):
    """The program, started beside the corpus; the work directory with commits of steps 4 and 8; what is expected."""
    packed = zstandard.ZstdDecompressor().decompress(
        (GOLDEN / f"workdir_schema1_{request.param}.tar.zst").read_bytes(), max_output_size=1 << 24
    )
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(tmp_path, filter="data")
    (tmp_path / "corpus.txt").write_bytes((GOLDEN / "workdir_schema1_corpus.txt").read_bytes())
    return Program(tmp_path, hasty_environment), tmp_path / request.param, EXPECTED[request.param]


def config(workdir, file, **changes):
    """Writes the run's experiment, changed, as a config of the schema that the program reads now."""
    values = json.loads((workdir / "experiment.json").read_text())
    file.write_text(
        "import json\nimport ml_collections\nfrom t5x_like.experiment import Experiment\n"
        f"TEXT = {json.dumps({**values, **changes})!r}\n"
        "def get_config(argument=None):\n"
        "    return ml_collections.ConfigDict(Experiment.from_json(TEXT).to_dict())\n"
    )
    return file


def test_it_resumes_with_the_losses_of_an_uninterrupted_run(run):
    program, workdir, expected = run
    program.run("train", f"--config={config(workdir, workdir.parent / 'longer.py', steps=12)}", f"--workdir={workdir}")
    written = lines(workdir)
    losses = [line["train/loss"] for line in written if "train/loss" in line]
    validation = {str(line["step"]): line["validation/loss"] for line in written if "validation/loss" in line}
    then = [float.fromhex(loss) for loss in expected["losses"]]
    assert losses[:8] == then[:8] and len(losses) == 12
    exact = EXPECTED["machine"] == {**golden_losses.machine(), "flags": EXPECTED["machine"]["flags"]}
    tolerance = 0 if exact else golden_losses.TOLERANCE
    assert losses == pytest.approx(then, rel=tolerance, abs=0)
    expected_validation = {step: float.fromhex(loss) for step, loss in expected["validation"].items()}
    assert validation == pytest.approx(expected_validation, rel=tolerance, abs=0)
    assert json.loads((workdir / "experiment.json").read_text())["steps"] == 12


def test_it_is_evaluated_and_writes_and_starts_another_run(run):
    program, workdir, expected = run
    found = json.loads(program.run("evaluate", f"--checkpoint={workdir}", "--json")[0])
    for name, value in expected["evaluated"].items():
        assert found[name] == pytest.approx(value, rel=golden_losses.TOLERANCE), name
    command = ("generate", f"--checkpoint={workdir}", "--prompt=A cat", "--tokens=12", "--temperature=0", "--json")
    assert json.loads(program.run(*command)[0])["samples"] == expected["generated"]
    another = config(workdir, workdir.parent / "another.py", steps=3, initialize={"checkpoint": str(workdir)})
    program.run("train", f"--config={another}", f"--workdir={workdir.parent / 'another'}")
    first, *_ = [line["train/loss"] for line in lines(workdir.parent / "another") if "train/loss" in line]
    scratch = float.fromhex(expected["losses"][0])
    trained = float.fromhex(expected["losses"][7])
    assert abs(first - trained) < abs(first - scratch), (first, trained, scratch)
