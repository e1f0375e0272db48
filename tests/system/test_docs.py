"""Every command of the README and the pages of docs/, run as it stands.

Training is made small by flags at the end of the command, and what a command needs is put where it looks for it; the
commands themselves are taken from the text.
"""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import media
import pytest
from interop import folders
from runs import TINY

ROOT = Path(__file__).parents[2]
# docs/interop.md is about a folder of its own: tests/interop/test_interop_page.py runs its commands.
DOCS = sorted({*(ROOT / "docs").glob("*.md")} - {ROOT / "docs" / "interop.md"})
PAGES = [ROOT / "README.md", *DOCS, ROOT / "CONTRIBUTING.md"]

# What a page shows that is not a command to run: placeholders and gigantic models.
SKIPPED = ("=…", "UPDATE_GOLDEN", "gs://", "$ ")


def commands(page):
    """The lines of a page's indented and fenced blocks that start the program or make, joined over backslashes."""
    text = re.sub(r"\\\n\s*", "", page.read_text())
    for line in text.splitlines():
        line = line.strip()
        if line.startswith(("t5x_like ", "python -m t5x_like", "make ")) and not any(mark in line for mark in SKIPPED):
            yield line.split("  #")[0].strip()


SMALL_MODEL = {
    "embed": 128,
    "vocab_size": 256,
    "decoder.layers": 1,
    "decoder.layer.attention.heads": 1,
    "decoder.layer.attention.kv_heads": 1,
    "decoder.layer.attention.head_dim": 128,
    "decoder.layer.feed_forward.hidden": 128,
}

ALL = [(page, command) for page in PAGES for command in commands(page)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with a corpus of one's own, a vocabulary and a finished run, as the pages assume them."""
    directory = tmp_path_factory.mktemp("docs")
    (directory / "corpus").mkdir()
    import zstandard

    rows = [json.dumps({"text": f"Document {i} speaks of {i * i} things. " * 40}) for i in range(60)]
    text = "\n".join(rows) + "\n"
    (directory / "mine.jsonl").write_text(text)
    (directory / "questions.jsonl").write_text('{"prompt": "How many things?"}\n"Why"\n')
    pairs = [{"prompt": f"{i} + 1 =", "continuation": f" {i + 1}"} for i in range(4)]
    media.json_lines(directory / "records.jsonl", pairs)
    capitals = [{"country": name, "capital": city} for name, city in (("France", "Paris"), ("Peru", "Lima"))]
    media.json_lines(directory / "capitals.jsonl", capitals * 2)
    task = re.search(r"```toml\n(.*?)```", (ROOT / "docs/evaluation.md").read_text(), re.DOTALL)
    (directory / "capitals.toml").write_text(task[1])
    media.folder(directory / "images", [media.image_bytes(number) for number in range(30)], "png")
    media.json_lines(directory / "pairs.jsonl", [{"question": f"{i} + 1?", "answer": f"{i + 1}"} for i in range(40)])
    folders.write_with_tokenizer(directory / "models" / "tiny")
    (directory / "corpus/part.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(text.encode()))
    return directory


def small(arguments):
    """A command of the pages with the flags that make it small."""
    if arguments[:2] == ["data", "train-tokenizer"]:
        return [re.sub(r"--vocab-size=\d+", "--vocab-size=300", argument) for argument in arguments]
    if arguments[0] == "preflight" and "--compare" not in arguments:
        model = [f"--config.model.{field}={size}" for field, size in SMALL_MODEL.items()]
        rows = ["--config.data.batch_size=2", "--config.data.lanes=1", "--config.data.sequence_length=32"]
        kept = [argument for argument in arguments if not argument.startswith("--topology")]
        return [*kept, "--topology=v5e:1x1", *model, *rows, "--config.parallelism.fsdp=1"]
    if arguments[0] != "train":
        return arguments
    tiny = [flag for flag in TINY[1:] if "splits" not in flag] + ["--config.parallelism.fsdp=1"]
    given = {argument.split("=")[0] for argument in arguments}
    if "--config.data.task.path" not in given:
        tiny += [flag for flag in TINY if "splits" in flag]
    tiny += [
        "--config.steps=2",
        "--config.evaluators={}",
        "--config.checkpoint.best_metric=",
        "--config.model.vocab_size=4096",
        "--config.model.max_length=256",
    ]
    tiny += [
        "--config.optimizer.schedule=constant",
        "--config.parallelism.microbatches=1",
        "--config.model.dtype=float32",
    ]
    return [*arguments, *(flag for flag in tiny if not flag.startswith("--config.evaluators."))]


GIN_TINY = [
    f"--gin.{flag.removeprefix('--config.')}" for flag in TINY[1:] if "splits" not in flag and "tensorboard" not in flag
] + ["--gin.TRAIN_STEPS=2", "--gin.optimizer.schedule.warmup_steps=1", "--gin.evaluators.validation.split='sweep'"]

DRIVER = """
import json, sys
from t5x_like.__main__ import main
from t5x_like import main as t5x
for line, arguments in json.load(sys.stdin):
    print("RUN", line, flush=True)
    status = (t5x.main if arguments[0].startswith("--run_mode") else main)(arguments)
    assert status == 0, (line, arguments, status)
    print("OK", line, flush=True)
"""


def test_every_command_of_the_pages_runs(place, hasty_environment):
    runs, seen = [], set()
    first = "t5x_like train --config=configs/quickstart.py --workdir=runs/quickstart"
    # Traces first: libtpu, which a preflight loads for its compiler, brings a tracer that ends the process.
    traces = [command for _, command in ALL if "--profile" in command]
    for line in [first, *traces, *(command for _, command in ALL)]:
        words = shlex.split(line)
        if words[0] == "make" or line in seen:
            continue
        seen.add(line)
        arguments = words[1:] if words[0] == "t5x_like" else words[3:]
        if arguments[0].startswith("--run_mode"):
            arguments += GIN_TINY
        runs.append((line, small(arguments)))
    done = subprocess.run(
        [sys.executable, "-c", DRIVER],
        input=json.dumps(runs),
        cwd=place,
        env=dict(hasty_environment),
        capture_output=True,
        text=True,
        timeout=560,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert done.stdout.count("OK ") == len(runs)
