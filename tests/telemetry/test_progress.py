"""What a person sees: plain lines in a pipe, a bar on a terminal."""

import io

import pytest
from rich.console import Console

from t5x_like.telemetry.progress import Progress, format_number, format_seconds, summary_table


def console(terminal):
    return Console(file=io.StringIO(), force_terminal=terminal, width=100, legacy_windows=False)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_pipe_gets_a_plain_line_now_and_then():
    pipe, clock = console(False), Clock()
    with Progress(100, console=pipe, clock=clock) as progress:
        for step in range(1, 101):
            clock.now += 0.5
            progress.update(step, {"loss": 4 - step / 50} if step % 10 == 0 else None)
    lines = pipe.file.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["1/100", "21/100", "41/100", "61/100", "81/100", "100/100"]
    assert lines[1] == "step 21/100 (21%)  loss 3.6  40 s left"
    assert lines[-1] == "step 100/100 (100%)  loss 2"
    assert "\x1b" not in pipe.file.getvalue()


def test_the_time_left_counts_from_where_the_process_began():
    pipe, clock = console(False), Clock()
    progress = Progress(100, 90, console=pipe, clock=clock)
    clock.now = 20.0
    progress.update(92)
    assert pipe.file.getvalue() == "step 92/100 (92%)  1 min 20 s left\n"


def test_messages_are_printed_as_they_are():
    pipe = console(False)
    Progress(10, console=pipe).message("[red]not markup[/red] " + "long " * 60)
    assert pipe.file.getvalue() == "[red]not markup[/red] " + "long " * 60 + "\n"


def test_a_terminal_gets_a_bar_with_the_numbers_and_messages_above():
    terminal = console(True)
    with Progress(10, console=terminal) as progress:
        progress.update(5, {"loss": 3.25, "tokens/s": 12345.6})
        progress.message("saved")
    progress.close()
    shown = terminal.file.getvalue()
    assert "loss 3.25  tokens/s 12,346" in shown and "50%" in shown and "5/10" in shown and "saved" in shown


def test_progress_goes_to_stderr(capsys):
    with Progress(2) as progress:
        progress.update(1)
    captured = capsys.readouterr()
    assert captured.out == "" and "step 1/2" in captured.err


ROWS = {"validation bits per byte": "1.41", "checkpoint": "/runs/" + "a" * 120, "go on": "t5x_like train [--x]"}


def test_a_summary_in_a_pipe_is_a_line_a_row(capsys):
    summary_table("quickstart", ROWS)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "quickstart"
    assert [line.strip().split("  ")[0] for line in lines[1:]] == list(ROWS)
    assert all(line.endswith(value) for line, value in zip(lines[1:], ROWS.values(), strict=True))


def test_a_summary_on_a_terminal_is_framed():
    terminal = console(True)
    summary_table("quickstart", ROWS, console=terminal)
    shown = terminal.file.getvalue()
    assert "╭" in shown and "1.41" in shown and "t5x_like train [--x]" in shown


@pytest.mark.parametrize(
    ("value", "text"),
    [(3.14159, "3.142"), (12345.6, "12,346"), (1.5e-5, "1.5e-05"), (7.0, "7"), (0, "0"), (float("nan"), "nan")],
)
def test_numbers(value, text):
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(42, "42 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (273_600, "3 d 04 h")]
)
def test_times(seconds, text):
    assert format_seconds(seconds) == text
