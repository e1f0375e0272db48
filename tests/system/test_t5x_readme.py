"""The commands of docs/from-t5x.md, as T5X's README has them, at a tiny size: pretrain, finetune, evaluate, infer."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from system import t5x_readme

pytestmark = pytest.mark.slow  # TensorFlow, and four programs compiled: two minutes

PAGE = Path(__file__).parents[2] / "docs" / "from-t5x.md"
# One process for all commands, so that TensorFlow is imported once. What a command prints is JSON.
DRIVER = """
import contextlib, io, json, sys
from t5x_like import main
done = []
for arguments in json.load(sys.stdin):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = main.main([*arguments, "--json"])
    assert status == 0, (arguments, status)
    done.append(json.loads(out.getvalue()))
print(json.dumps(done))
"""


def commands(place):
    """The page's commands, with a directory in place of its bucket."""
    lines = re.findall(r"^    (python -m t5x_like.main .*)$", PAGE.read_text(), re.MULTILINE)
    assert len(lines) == 4
    return [shlex.split(line.replace("gs://bucket", str(place)))[3:] for line in lines]


@pytest.fixture(scope="module")
def found(tmp_path_factory, hasty_environment):
    """(directory, what each command printed)."""
    place = tmp_path_factory.mktemp("readme")
    t5x_readme.bring(place)
    pretrain, finetune, evaluate, infer = commands(place)
    more = [
        [*evaluate, '--gin.MIXTURE_OR_TASK_NAME="mine_polarity"', '--gin.utils.RestoreCheckpointConfig.mode="all"'],
        infer,  # again: it is whole
        [
            *infer,
            '--gin.infer.mode="predict_with_aux"',
            "--gin.EncoderDecoderModel.predict_batch_with_aux.num_decodes=2",
            "--gin.EncoderDecoderModel.predict_batch_with_aux.return_all_decodes=True",
            "--gin.infer.num_shards=2",
            "--gin.infer.shard_id=1",
        ],
        [*infer, '--gin.infer.mode="score"'],
        [
            *("--run_mode=export", "--gin_file=model.gin", "--gin_file=t5x/configs/runs/export.gin"),
            *(f'--gin.CHECKPOINT_PATH="{place}/finetuned"', f'--gin.MODEL_OUTPUT_DIR="{place}/exported"'),
            "--gin.DROPOUT_RATE=0.0",
        ],
    ]
    environment = {name: value for name, value in hasty_environment.items() if name != "PYTHONWARNINGS"}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER],
        input=json.dumps([pretrain, finetune, evaluate, infer, *more]),
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return place, json.loads(done.stdout.splitlines()[-1])


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_pretraining_commits_and_measures(found):
    place, (pretrained, *_) = found
    assert pretrained["step"] == 6 and pretrained["train_eval/loss"] > 0
    steps = {int(path.name) for path in (place / "pretrained" / "checkpoints").iterdir() if path.name.isdigit()}
    assert steps == {3, 6}
    experiment = json.loads((place / "pretrained" / "experiment.json").read_text())
    assert experiment["optimizer"]["schedule"]["factors"] == "constant * rsqrt_decay"


def test_finetuning_goes_on_from_the_checkpoints_step_with_t5s_metrics(found):
    place, (_, finetuned, *_) = found
    assert finetuned["step"] == 10
    names = {
        "mine_translation/sequence_accuracy",
        "mine_translation/mean_edit",
        "mine_polarity/accuracy",
        "mine_polarity/f1",
    }
    assert {f"infer_eval/{name}" for name in names} <= finetuned.keys()
    logged = lines(place / "finetuned" / "metrics.jsonl")
    assert all(row["step"] > 6 for row in logged)
    experiment = json.loads((place / "finetuned" / "experiment.json").read_text())
    assert experiment["objective"]["label_smoothing"] == 0.1 and experiment["evaluators"]["infer_eval"]["beams"] == 2


def test_evaluation_of_two_mixtures_writes_what_seqio_writes(found):
    place, (_, _, evaluated, _, every, *_) = found
    assert [each["step"] for each in evaluated["checkpoints"]] == [10]
    assert [each["step"] for each in every["checkpoints"]] == [8, 10]
    logs = place / "evaluated" / "inference_eval"
    assert {row["step"] for row in lines(logs / "mine_polarity-metrics.jsonl")} == {8, 10}
    predictions = lines(logs / "mine_translation-000010.jsonl")
    assert len(predictions) == 8 and {"prediction", "target"} <= predictions[0].keys()
    done = (place / "evaluated" / "eval.mine_polarity.ckpt").read_text().split()
    assert [path.rsplit("/", 1)[1] for path in done] == ["10", "8"]


def test_inference_writes_a_line_an_example_and_does_nothing_twice(found):
    place, (*_, inferred, _, again, aux, score, _) = found
    [file] = inferred["files"]
    assert file["lines"] == 8 and again["files"][0]["lines"] == 0
    rows = lines(Path(file["file"]))
    assert Path(file["file"]).name == "mine_translation-predict.jsonl-00000-of-00001"
    assert rows[0]["inputs"]["inputs_pretokenized"].startswith("translate English to German: number 52")
    assert isinstance(rows[0]["prediction"], str) and rows[0].keys() == {"inputs", "prediction"}
    part = lines(place / "inferred" / "mine_translation-predict_with_aux.jsonl-00001-of-00002")
    assert len(part) == aux["files"][0]["lines"] < 8
    assert len(part[0]["prediction"]) == len(part[0]["aux"]["scores"]) == 2
    scored = lines(Path(score["files"][0]["file"]))
    assert len(scored) == 8 and all(row["score"] < 0 for row in scored)
    assert not list((place / "inferred").glob("tmp-*"))


def test_the_export_is_a_folder_of_hugging_faces(found):
    place, (*_, exported) = found
    assert exported["parameters"] > 0
    assert json.loads((place / "exported" / "config.json").read_text())["model_type"] == "t5"
