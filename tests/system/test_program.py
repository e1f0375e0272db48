"""The program as a user meets it, in an empty directory."""

import json
import shutil
import subprocess
import sys

import pytest
from runs import TINY, Program, lines


@pytest.fixture(scope="module")
def trained(tmp_path_factory, hasty_environment):
    """A finished tiny run, and what it printed."""
    directory = tmp_path_factory.mktemp("trained")
    program = Program(directory, hasty_environment)
    out, err = program.train(directory / "run", "--config.telemetry.tensorboard=true", "--profile=12:14")
    return program, directory / "run", out, err


def test_the_summary_names_everything(trained):
    _, workdir, out, _ = trained
    summary = json.loads((workdir / "summary.json").read_text())
    for name in ("validation/bits_per_byte", "train_tokens", "train_seconds", "tokens_per_second"):
        assert summary[name] > 0
    assert summary["first_step_seconds"] > 0
    for name in ("checkpoint", "report", "samples", "profile"):
        assert summary[name] in out
    assert summary["train_tokens"] == 20 * 4 * 32
    assert (workdir / "checkpoints" / "20").is_dir()
    assert "t5x_like generate --checkpoint=" in out


def test_the_workdir_holds_the_whole_run(trained):
    _, workdir, _, _ = trained
    metrics = lines(workdir)
    assert [line["step"] for line in metrics if "train/loss" in line] == list(range(1, 21))
    assert [line["step"] for line in metrics if "validation/loss" in line] == [10, 20]
    for name in ("train/learning_rate", "train/gradient_norm", "train/tokens_per_second", "train/data_wait_share"):
        assert metrics[-2].get(name) is not None
    assert [line["step"] for line in metrics if "train/first_step_seconds" in line] == [1]
    assert list((workdir / "tensorboard").iterdir())
    assert list((workdir / "profile").rglob("*.xplane.pb"))
    assert (workdir / "report.html").stat().st_size > 10_000
    assert json.loads((workdir / "experiment.json").read_text())["data"]["task"]["name"] == "sotu"
    assert (workdir / "assets" / "vocabulary.model").exists()


def test_evaluate_prints_the_same_metrics_again(trained):
    program, workdir, _, _ = trained
    out, _ = program.run("evaluate", f"--checkpoint={workdir}", "--json")
    again, summary = json.loads(out), json.loads((workdir / "summary.json").read_text())
    for name in ("validation/loss", "validation/bits_per_byte", "validation/accuracy"):
        assert again[name] == summary[name]


def test_generate_is_seeded_and_greedy_is_greedy(trained):
    program, workdir, _, _ = trained
    command = ("generate", f"--checkpoint={workdir}", "--prompt=Fellow citizens", "--tokens=8", "--json")
    first, again, other = (json.loads(program.run(*command, f"--seed={seed}")[0]) for seed in (1, 1, 2))
    assert first == again != other
    assert first["samples"][0]["prompt"] == "Fellow citizens"
    out, _ = program.run("generate", f"--checkpoint={workdir}/checkpoints/10", "--prompt=The", "--temperature=0")
    assert out.startswith("The")


def test_a_file_of_prompts_is_continued_as_each_alone(trained, tmp_path):
    program, workdir, _, _ = trained
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Fellow citizens"}\n"The"\n""\n')
    command = ("generate", f"--checkpoint={workdir}", "--tokens=6", "--temperature=0")
    out, _ = program.run(*command, f"--prompts={tmp_path}/prompts.jsonl", "--json-lines")
    samples = [json.loads(line) for line in out.splitlines()]
    assert [sample["prompt"] for sample in samples] == ["Fellow citizens", "The", ""]
    alone, _ = program.run(*command, "--prompt=The")
    assert alone == f"The{samples[1]['text']}\n"
    beams, _ = program.run(*command, "--prompt=The", "--beams=1", "--length-penalty=0")
    assert beams == alone
    (tmp_path / "prompts.jsonl").write_text('"a"\n{"text": "b"}\n')
    _, err = program.run(*command, f"--prompts={tmp_path}/prompts.jsonl", status=2)
    assert "error: --prompts: line 2 of" in err and "Traceback" not in err


def test_texts_are_generated_with_the_vocabulary_beside_the_checkpoint(trained, tmp_path):
    program, workdir, *_ = trained
    taken = shutil.copytree(workdir, tmp_path / "taken")
    [kept] = (taken / "assets").iterdir()
    kept.write_bytes(b"no vocabulary")
    _, err = program.run("generate", f"--checkpoint={taken}", "--prompt=The", status=2)
    assert f"error: data.task.tokenizer: {kept} is no" in err


def test_gin_spelling_trains(trained, tmp_path):
    program, _, _, _ = trained
    bindings = [
        f"--gin.{flag.removeprefix('--config.')}"
        for flag in TINY[1:]
        if not any(name in flag for name in ("splits", "tensorboard", "config.steps"))
    ]
    bindings = [b.replace("=false", "=False") for b in bindings]
    out, _ = program.run(
        "--run_mode=train",
        "--gin_file=gin/models/quickstart.gin",
        *bindings,
        "--gin.TRAIN_STEPS=3",
        f"--gin.MODEL_DIR='{tmp_path}/gin'",
        "--json",
        module="t5x_like.main",
    )
    assert json.loads(out)["step"] == 3


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["data", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys\nfrom t5x_like.__main__ import main\n"
        f"try: main({arguments})\nexcept SystemExit: pass\n"
        "heavy = {'jax', 'flax', 'numpy', 'tensorflow', 'orbax', 'rich', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_training_imports_no_tensorflow(program, tmp_path):
    overrides = [*TINY, f"--workdir={tmp_path}/run", "--config.steps=3", "--json"]
    code = (
        "import sys\nfrom t5x_like.__main__ import main\n"
        f"assert main({['train', *overrides]!r}) == 0\n"
        "assert 'tensorflow' not in sys.modules and 'seqio' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=dict(program.environment))


def test_a_dry_run_says_what_would_be_taken_and_writes_nothing(trained, tmp_path):
    program, workdir, _, _ = trained
    new = tmp_path / "new"
    flags = (f"--config.initialize.checkpoint={workdir}", "--config.model.max_length=64")
    out, _ = program.train(new, *flags, "--dry-run")
    first, *variables = out.splitlines()
    taken = len(json.loads((workdir / "parameters.json").read_text()))
    assert first.startswith(f"variables from {workdir}/checkpoints/20: {taken} taken, 0 of them from another path")
    assert len(variables) == taken and all(line.startswith("  = ") for line in variables)
    _, err = program.train(new, *flags, "--config.model.decoder.positions.theta=5e5", "--dry-run", status=2)
    assert "! model.decoder.positions.theta: 10000.0 there, 500000.0 here" in err
    assert not new.exists()
    out, _ = program.train(workdir, "--dry-run")
    assert out == f"{workdir} has a checkpoint of step 20: the run would be resumed from it\n"
