"""`t5x_like data inspect`: the page in a pipe and on a terminal, and its JSON."""

import io
import json

import pytest
from rich.console import Console

from t5x_like.__main__ import main
from t5x_like.commands.data import inspect as page
from t5x_like.data.cleaning.base import Outcome
from t5x_like.data.cleaning.counts import Counts
from t5x_like.data.inspection import Bin, ComponentShare, Inspection, Run
from t5x_like.frontends import configdict

CONFIG = "--config=configs/quickstart.py"


def test_json_says_what_the_page_says(capsys):
    assert main(["data", "inspect", CONFIG, "--examples=1", "--rows=16", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (run, *_) = found["rows"][0]["targets"]
    assert run["segment"] == 1 and run["weighted"] is None and len(run["text"]) > 100
    assert found["fill"] == 1.0 and found["dropped"] == 0.0 and found["looked_at"] == 16
    assert found["tokens_an_epoch"] == sum(each["tokens"] for each in found["lengths"])
    assert main(["data", "inspect", CONFIG, "--examples=1", "--rows=16"]) == 0
    printed = capsys.readouterr().out
    assert f"{found['tokens_an_epoch']:,}" in printed and "row 0, targets" in printed
    assert "100.00% of places hold a token, in the first 16 rows" in printed
    assert "\x1b" not in printed


COUNTS = Counts.of(["c4"])
COUNTS.stages[0].count("Home\nA line.", Outcome("A line.", "", {"no_end_mark": 1}))
COUNTS.stages[0].count("lorem ipsum", Outcome(None, "lorem_ipsum"))

FOUND = Inspection(
    rows=(
        {
            "targets": (
                Run("ends", 3, 1, False, True),
                Run("begins ", 2, 2, False, False),
                Run("counted", 1, 2, True, False),
            )
        },
    ),
    looked_at=8,
    fill=0.5,
    dropped=0.25,
    weighted=0.125,
    examples_a_row=2.0,
    steps=(0, 300),
    parts=(ComponentShare("a", 5, 1000, (0.75, 0.0), 2.5), ComponentShare("b", None, None, (0.25, 1.0), None)),
    tokens_an_epoch=None,
    tokens_a_run=1234567,
    lengths=(Bin(1, 1, 2, 2), Bin(2, 2, 0, 0), Bin(3, 4, 1, 3)),
    sampled=3,
    cleaned={"a": COUNTS},
)


@pytest.mark.parametrize("terminal", [True, False])
def test_the_page(terminal):
    out = io.StringIO()
    console = Console(file=out, width=100, force_terminal=terminal, color_system="standard" if terminal else None)
    page.show(FOUND, configdict.load("configs/quickstart.py", []), console)
    text = out.getvalue()
    if terminal:
        assert "\x1b[36mends" in text and "\x1b[33mbegins " in text and "\x1b[1;4;33m⟦counted⟧" in text
        return
    assert "│ ends⏎┃begins ⟦counted⟧" in text
    assert "Lengths of the first 3 documents, in tokens" in text
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "3–4 1 60.0% ████████████████████████████" in lines
    assert "1 2 40.0% ███████████████████" in lines
    assert "component documents tokens share from step 0 share from step 300 epochs in the run" in lines
    assert "a 5 1,000 75.00% 0.00% 2.5" in lines
    assert "b streamed streamed 25.00% 100.00%" in lines
    assert "counted by the loss 12.50% of tokens" in lines
    assert "dropped 25.00% of tokens are in no example" in lines
    at = lines.index("Cleaning of the first documents of a")
    assert lines[at + 1 : at + 4] == [
        "c4: 1 of 2 documents and 7 of 23 bytes are left",
        "dropped by lorem_ipsum: 1 (11 bytes)",
        "taken out by no_end_mark: 1 (documents: 1)",
    ]


@pytest.mark.parametrize(
    "flag, sentence",
    [
        ("--examples=-1", "--examples: -1 is too small; it must be at least 0"),
        ("--rows=0", "--rows: 0 is too small; it must be at least 1"),
        ("--config.data.split=trian", "data.split: data.task.splits has no 'trian'; did you mean 'train'?"),
    ],
)
def test_what_it_refuses(capsys, flag, sentence):
    assert main(["data", "inspect", CONFIG, flag]) == 2
    assert f"error: {sentence}" in capsys.readouterr().err
