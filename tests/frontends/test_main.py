"""T5X's entry: which command a run mode becomes, and what is refused."""

import json
import subprocess
import sys

import pytest

from t5x_like import main
from t5x_like.frontends import configdict

NO_JOB = {"modules": [], "profile": "", "executable": ""}


@pytest.fixture
def calls(monkeypatch):
    """Stands in for the commands, and collects what they are called with."""
    made = []
    monkeypatch.setattr("t5x_like.distributed.startup.prepare", lambda: None)
    for name, function in (("train", "experiment"), ("evaluate", "evaluate"), ("generate", "generate")):

        def call(*arguments, _name=name, **options):
            made.append((_name, arguments, options))
            return 0

        monkeypatch.setattr(f"t5x_like.commands.{name}.run_{function}", call)
    return made


def test_train(calls, monkeypatch):
    arguments = ["--gin_file=gin/models/quickstart.gin", "--gin.TRAIN_STEPS=90", '--gin.MODEL_DIR="a b"', "--json"]
    monkeypatch.setattr("sys.argv", ["main.py", *arguments])
    assert main.main(["--run_mode=train", *arguments]) == 0
    experiment = configdict.load("configs/quickstart.py", ["--config.steps=90"])
    flags = "--gin_file=gin/models/quickstart.gin --gin.TRAIN_STEPS=90 '--gin.MODEL_DIR=\"a b\"' --json"
    command = f"python -m t5x_like.main {flags}"
    assert calls == [("train", (experiment, "a b"), {"json_output": True, "command": command} | NO_JOB)]


def test_train_with_flags_of_the_job(calls):
    assert (
        main.main(['--gin.MODEL_DIR="a"', "--gin_file=gin/models/quickstart.gin", "--profile=1:3", "--executable=b"])
        == 0
    )
    [(_, _, options)] = calls
    assert (options["profile"], options["executable"]) == ("1:3", "b")


def test_precompile(monkeypatch, calls):
    monkeypatch.setattr("t5x_like.parallel.topologies.prepare", lambda platform: None)
    monkeypatch.setattr("t5x_like.commands.preflight.run_preflight", lambda *arguments: calls.append(arguments) or 0)
    arguments = ["--run_mode=precompile", "--topology=v5e:2x2", "--gin_file=gin/models/quickstart.gin"]
    assert main.main([*arguments, "--gin.MODEL_DIR='a'"]) == 0
    [(experiment, topology, options)] = calls
    assert experiment == configdict.load("configs/quickstart.py")
    assert topology.size == 4 and options.save == "a"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--run_mode=precompile"], "--topology is not given"),
        (["--run_mode=train", "--topology=v5e:2x2"], "--topology is of --run_mode=precompile"),
        (["--run_mode=eval", "--profile=3"], "--profile is of --run_mode=train"),
    ],
)
def test_a_flag_of_another_mode(capsys, arguments, expected):
    assert main.main(arguments) == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("macro", ["CHECKPOINT_PATH", "MODEL_DIR"])
def test_eval(calls, macro):
    assert main.main(["--run_mode=eval", f'--gin.{macro}="a"']) == 0
    assert calls == [("evaluate", ("a",), {"json_output": False})]


def test_infer(calls):
    prompts = ['--gin.PROMPTS=["x", "y"]']
    assert main.main(["--run_mode=infer", *prompts, '--gin_bindings=CHECKPOINT_PATH = "a"']) == 0
    assert calls == [("generate", ("a", ("x", "y")), {"json_output": False})]


def test_search_paths_and_modules(calls, tmp_path, monkeypatch):
    (tmp_path / "mine.gin").write_text("import user_of_gin\ninclude 'gin/models/quickstart.gin'\nMODEL_DIR = 'a'\n")
    (tmp_path / "user_of_gin.py").write_text("IMPORTED = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "user_of_gin", raising=False)
    assert main.main([f"--gin_search_paths=/nowhere,{tmp_path}", "--gin_file=mine.gin"]) == 0
    assert sys.modules["user_of_gin"].IMPORTED
    assert calls[0][1][1] == "a"


def test_modules_are_looked_for_in_the_search_paths(calls, tmp_path, monkeypatch):
    """What T5X leaves to PYTHONPATH."""
    (tmp_path / "only_in_search_paths.py").write_text("IMPORTED = True\n")
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.setattr("sys.meta_path", list(sys.meta_path))
    bindings = ['--gin.MODEL_DIR="a"', '--gin.MIXTURE_OR_TASK_MODULE="only_in_search_paths"']
    assert main.main([f"--gin_search_paths={tmp_path}", "--gin_file=gin/models/quickstart.gin", *bindings]) == 0
    assert sys.modules.pop("only_in_search_paths").IMPORTED


def test_directories_of_tfds_and_seqio(calls):
    flags = ["--tfds_data_dir=/data/tfds", "--seqio_additional_cache_dirs=/a,/b"]
    task = "--gin.data.task={'name': 'seqio', 'mixture': 'theirs', 'use_cached': True}"
    bindings = ['--gin.MODEL_DIR="a"', task]
    assert main.main([*flags, "--gin_file=gin/models/quickstart.gin", *bindings]) == 0
    task = calls[0][1][0].data.task
    assert (task.mixture, task.data_dir, task.cache_dirs) == ("theirs", "/data/tfds", ("/a", "/b"))
    assert task.use_cached


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--gin_file=gin/models/quickstart.gin"],
            "MODEL_DIR must be given; set it with --gin.MODEL_DIR='\"runs/NAME\"'",
        ),
        (["--run_mode=eval"], "CHECKPOINT_PATH must be given; set it with --gin.CHECKPOINT_PATH='\"runs/NAME\"'"),
        (
            ["--run_mode=eval", '--gin.CHECKPOINT_PATH="a"', "--gin.data.batch_size=8"],
            "--gin.data.batch_size: data.batch_size would have no effect, because a checkpoint is read with the"
            " experiment"
            " stored beside it; leave it out",
        ),
        (["--gin.TRAIN_STEPS"], "'--gin.TRAIN_STEPS' is not understood; a gin name is set with --gin.NAME=VALUE"),
        (["--config.steps=3"], "'--config.steps=3' is not understood; a gin name is set with --gin.NAME=VALUE"),
        (
            ["--gin_bindings=import nowhere_to_be_found", '--gin.MODEL_DIR="a"'],
            "--gin_bindings import nowhere_to_be_found: there is no module 'nowhere_to_be_found'; give a Python file or"
            " a module's dotted name",
        ),
    ],
)
def test_what_is_refused_is_one_sentence(calls, capsys, arguments, sentence):
    assert main.main(arguments) == 2
    assert capsys.readouterr().err == f"error: {sentence}\n"
    assert calls == []


def test_export_is_that_of_the_other_spelling(calls, monkeypatch):
    monkeypatch.setattr("t5x_like.__main__.main", lambda arguments: calls.append(arguments) or 0)
    files = ["--gin_file=gin/models/t5_1_1/small.gin", "--gin_file=gin/runs/export.gin", "--gin.DROPOUT_RATE=0.0"]
    paths = ["--gin.CHECKPOINT_PATH='a'", "--gin.MODEL_OUTPUT_DIR='b'"]
    assert main.main(["--run_mode=export", *files, *paths, "--json"]) == 0
    assert calls == [["export", "--checkpoint=a", "--to=hf", "--output=b", "--json"]]
    assert main.main(["--run_mode=export"]) == 2


def test_a_module_that_fails_is_named_with_the_line_that_imports_it(calls, capsys, tmp_path, monkeypatch):
    (tmp_path / "failing_tasks.py").write_text("import seqio_of_my_own\n")
    (tmp_path / "mine.gin").write_text("MODEL_DIR = 'a'\nimport failing_tasks\ninclude 'gin/models/quickstart.gin'\n")
    monkeypatch.chdir(tmp_path)
    assert main.main(["--gin_file=mine.gin"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: mine.gin:2: ") and "seqio_of_my_own" in error and error.count("\n") == 1
    left = {path.name for path in tmp_path.iterdir()}
    assert calls == [] and left <= {"failing_tasks.py", "mine.gin", "__pycache__"}


T5X = ["--gin_file=gin/models/t5_1_1/small.gin", "--gin_file=gin/runs/pretrain.gin", "--gin.DROPOUT_RATE=0.0"]
T5X += [
    "--gin.MIXTURE_OR_TASK_NAME='m'",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 8, 'targets': 4}",
    "--gin.TRAIN_STEPS=2",
]


@pytest.mark.parametrize("switch", ["--dry_run", "--dry_run=true", "--dry_run=1"])
def test_a_dry_run_shows_the_experiment_and_every_bindings_fate(calls, capsys, switch):
    flags = ["--alsologtostderr", "--verbosity=1", "--nomultiprocess_gpu", "--gin.MODEL_DIR='a'"]
    assert main.main([*T5X, *flags, switch]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "optimizer.schedule.factors = 'constant * rsqrt_decay'" in lines
    assert "gin/runs/pretrain.gin:57: t5x.utils.SaveCheckpointConfig.period: checkpoint.every = 1000" in lines
    assert calls == []
    assert main.main([*T5X, *flags, switch, "--json"]) == 0
    fates = json.loads(capsys.readouterr().out)["bindings"]
    assert {"binding", "became"} == set(fates[0]) and len(fates) > 60


@pytest.mark.parametrize("switch", ["--nodry_run", "--dry_run=false"])
def test_a_switch_can_be_off(calls, switch):
    assert main.main(["--gin_file=gin/models/quickstart.gin", "--gin.MODEL_DIR='a'", switch]) == 0
    assert len(calls) == 1


def test_help_is_instant(program_environment):
    """It answers without importing what takes long."""
    program = (
        "import sys\nfrom t5x_like import main\n"
        "try: main.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'jax', 'numpy', 'gin', 'rich', 'tensorflow'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=program_environment, capture_output=True, text=True, check=True
    )
    assert "--gin_file" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
