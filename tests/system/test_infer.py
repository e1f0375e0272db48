"""`t5x_like infer` and `t5x_like chat` as real processes: fields, order, a kill on the way, and what is refused."""

import json
import math
import signal
import time

import pytest


@pytest.fixture(scope="module")
def run(tmp_path_factory, hasty_environment):
    """A run of the tiny model, and the program."""
    from runs import Program

    directory = tmp_path_factory.mktemp("infer")
    made = Program(directory, hasty_environment)
    made.train(directory / "tiny", "--config.steps=3", "--config.evaluators={}", "--config.checkpoint.best_metric=")
    return made


def write(run, name, records):
    (run.directory / name).write_text("".join(json.dumps(record) + "\n" for record in records))


def read(run, name):
    return [json.loads(line) for line in (run.directory / name).read_text().splitlines()]


def infer(run, mode, source, output, *flags, **options):
    return run.run(
        "infer", "--checkpoint=tiny", f"--mode={mode}", f"--input={source}", f"--output={output}", *flags, **options
    )


def test_records_are_answered_in_order_and_a_killed_command_goes_on(run):
    records = [
        {"id": i, "prompt": f"Number {i} " + "and so on " * (i % 5), "continuation": f" is {i}"} for i in range(600)
    ]
    write(run, "a.jsonl", records)
    flags = ("--temperature=0.8", "--seed=3", "--tokens=6")
    infer(run, "predict", "a.jsonl", "whole.jsonl", *flags)
    whole = read(run, "whole.jsonl")
    assert [{key: each[key] for key in records[0]} for each in whole] == records
    assert all(each.keys() == {"id", "prompt", "continuation", "text"} for each in whole)
    write(run, "prompts.jsonl", [record["prompt"] for record in records[:4]])
    offline, _ = run.run(
        "generate", "--checkpoint=tiny", "--prompts=prompts.jsonl", "--json-lines", *flags, "--top-p=1"
    )
    assert [json.loads(line)["text"] for line in offline.splitlines()] == [each["text"] for each in whole[:4]]

    # Killed when a part is written: the second command does the rest, and half a line is written again.
    arguments = "--checkpoint=tiny", "--mode=predict", "--input=a.jsonl", "--output=killed.jsonl"
    process, part = run.start("infer", *arguments, *flags), run.directory / "killed.jsonl.part"
    while process.poll() is None and not (part.exists() and part.stat().st_size):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and not (run.directory / "killed.jsonl").exists()
    part.write_bytes(part.read_bytes() + b'{"id": 25')
    _, err = run.run("infer", *arguments, *flags, "--stop=x", status=2)
    assert "was begun with another sampling" in err
    run.run("infer", *arguments, *flags)
    assert read(run, "killed.jsonl") == whole
    assert not part.exists() and not (run.directory / "killed.jsonl.part.json").exists()


def test_scores_add_up_and_embeddings_are_of_the_model_s_width(run):
    records = [{"prompt": "The state", "continuation": f" of the Union {i}"} for i in range(5)]
    write(
        run,
        "b.jsonl",
        [*records, {"prompt": "The ", "continuation": "state"}, {"prompt": "The", "continuation": " state"}],
    )
    infer(run, "score", "b.jsonl", "scored.jsonl")
    scored = read(run, "scored.jsonl")
    for each in scored:
        assert math.isclose(each["log_probability"], sum(each["token_log_probabilities"]), rel_tol=1e-6)
        assert len(each["tokens"]) == len(each["token_log_probabilities"]) > 0
        assert each["log_probability"] < 0
    assert scored[-1]["log_probability"] == pytest.approx(scored[-2]["log_probability"], rel=1e-5)
    assert "".join(scored[0]["tokens"]).strip() == "of the Union 0"
    for form, most in (("int8", 0.01), ("int4", 0.1), ("nf4", 0.1)):
        infer(run, "score", "b.jsonl", f"{form}.jsonl", f"--quantize={form}")
        found = [each["log_probability"] for each in read(run, f"{form}.jsonl")]
        errors = [abs(a / b["log_probability"] - 1) for a, b in zip(found, scored, strict=True)]
        assert 0 < max(errors) < most, form
    infer(run, "embed", "b.jsonl", "embedded.jsonl")
    embedded = read(run, "embedded.jsonl")
    assert {len(each["embedding"]) for each in embedded} == {16}
    assert embedded[0]["embedding"] == embedded[1]["embedding"] != embedded[-1]["embedding"]

    for content, sentence in [
        ('{"prompt": 1}\n', "line 1 of c.jsonl has no text in the field prompt"),
        ('{"prompt": "a"}\n[', "line 2 of c.jsonl is no JSON"),
        ("\n", "c.jsonl has no record"),
        ('{"prompt": "' + "word " * 9000 + '"}', "record 1 has"),
    ]:
        (run.directory / "c.jsonl").write_text(content)
        _, err = infer(run, "embed", "c.jsonl", f"d{len(content)}.jsonl", status=2)
        assert sentence in err and err.startswith("error: ") and err.count("\n") == 1
        assert not (run.directory / f"d{len(content)}.jsonl").exists()
    _, err = infer(run, "embed", "b.jsonl", "embedded.jsonl", status=2)
    assert "is there already" in err


def test_a_chat_answers_each_line_with_what_was_said_before(run):
    import subprocess
    import sys

    arguments = ["chat", "--checkpoint=tiny", "--tokens=5", "--temperature=0", "--system=Be brief."]
    lines = "Why?\nHow?\n\nWhy?\n" + "long " * 9000 + "\nWhy?\n"
    done = subprocess.run(
        [sys.executable, "-m", "t5x_like", *arguments],
        input=lines,
        capture_output=True,
        text=True,
        cwd=run.directory,
        env=dict(run.environment),
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    prompt = "system: Be brief.\nuser: Why?\nassistant:"
    first, _ = run.run(
        "generate", "--checkpoint=tiny", f"--prompt={prompt}", "--tokens=5", "--temperature=0", "--json-lines"
    )
    text = json.loads(first)["text"]
    second = f"{prompt}{'' if text.startswith(' ') else ' '}{text.lstrip()}"
    assert done.stdout.startswith(text + "\n") and done.stdout.count(text + "\n") >= 2 and second
    assert "the conversation is longer than the model's" in done.stderr
