"""One line that is rewritten on a terminal; a line every ten seconds elsewhere."""

import os
import pathlib
import pty
import re
import subprocess
import sys
import termios

import pytest

from offline_tf.run_folder import progress

ROOT = pathlib.Path(__file__).parent.parent.parent.parent


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def lines(monkeypatch):
    """What is logged, where stderr is no terminal."""
    found = []
    monkeypatch.setattr(progress.logging, "info", lambda text, *a: found.append(text % a))
    monkeypatch.setattr(progress, "_is_terminal", lambda: False)
    return found


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((0, 6, "epochs", 0.0), "0 of 6 epochs"),
        ((1.436, 6, "epochs", 0.0332), "1.436 of 6 epochs, 0.0332/s, 137 s left"),
        ((294_912, 300_000, "pairs", 30_123.4), "294,912 of 300,000 pairs, 30,123/s, 0 s left"),
        ((1, 250, "iterations", 0.25), "1 of 250 iterations, 0.25/s, 17 min left"),
        ((1, 250, "iterations", 0.01), "1 of 250 iterations, 0.01/s, 6.9 h left"),
        ((12.34, None, "MB", 3.0), "12.34 MB, 3/s"),
    ],
)
def test_the_words(arguments, expected):
    expected = expected.replace("137 s", "2 min")
    assert progress.in_words(*arguments) == expected


def test_a_file_gets_a_line_every_ten_seconds_and_at_the_end(clock, lines):
    shown = progress.Progress("fit")
    for done in range(1, 26):
        clock[0] = float(done)
        shown.tell(done, 25, "epochs")
    # One epoch per second.
    assert lines == [
        "fit: 10 of 25 epochs, 1/s, 15 s left",
        "fit: 20 of 25 epochs, 1/s, 5 s left",
        "fit: 25 of 25 epochs, 1/s, 0 s left",
    ]


def test_work_that_begins_anew_has_a_rate_of_its_own(clock, lines):
    shown = progress.Progress("usad")
    for seconds, done in [(0, 0), (1, 100), (11, 0), (21, 40)]:
        clock[0] = float(seconds)
        shown.tell(done, 100, "pairs")
    assert lines == [
        "usad: 100 of 100 pairs, 100/s, 0 s left",
        "usad: 0 of 100 pairs",
        "usad: 40 of 100 pairs, 4/s, 15 s left",
    ]


def test_a_stage_shows_its_progress(record, clock, lines):
    stage = record.stage("planning")
    stage.progress(1, 2, "iterations")
    clock[0] = 10.0
    stage.progress(2, 2, "iterations", "return 3")
    assert lines == ["planning: 2 of 2 iterations, 0.1/s, 0 s left | return 3"]


# --- on a terminal ---

CODE = """
import sys
from absl import logging
from flags import schema
from offline_tf.run_folder import progress

now = [0.0]
progress.time.monotonic = lambda: now[0]

def main():
    shown = progress.Progress("fit")
    for done in range(1, 5):
        now[0] = float(done)
        shown.tell(done, 4, "epochs", "x" * 200 if done == 2 else "")
        if done == 3:
            logging.info("in between")
    now[0] = 5.0
    shown.tell(1, 4, "epochs")
    if "fail" in sys.argv[0]:
        raise ValueError("no")

sys.argv[0] = NAME
schema.run(main, configs=[], usage="usage")
"""


def on_terminal(*words, columns=60, name="works", **environment):
    """Runs CODE on a terminal; what it writes."""
    terminal, its = pty.openpty()
    termios.tcsetwinsize(its, (24, columns))
    with subprocess.Popen(
        [sys.executable, "-c", CODE.replace("NAME", repr(name)), *words],
        cwd=ROOT,
        stderr=its,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"TERM": "xterm", "NO_COLOR": "1"} | environment,
    ):
        os.close(its)
        pieces = []
        try:
            while piece := os.read(terminal, 4096):
                pieces.append(piece)
        except OSError:  # Linux says so at the end
            pass
    os.close(terminal)
    return b"".join(pieces).decode().replace("\r\n", "\n")


def screen(text):
    """The lines that a terminal would show in the end."""
    shown, row = [""], ""
    for token in re.findall(r"\r|\n|\x1b\[K|[^\r\n\x1b]+", text):
        if token == "\n":
            shown.append("")
        elif token == "\r":
            row = ""
        elif token == "\x1b[K":
            shown[-1] = row
        else:
            row = token
            shown[-1] = token + shown[-1][len(token) :]
        if token == "\n":
            row = ""
    return shown


def test_a_terminal_shows_one_line_that_is_rewritten():
    text = on_terminal()
    assert "\rfit: 1 of 4 epochs\x1b[K" in text and "\rfit: 3 of 4 epochs, 1/s, 1 s left" in text
    assert screen(text) == [
        "in between",
        "fit: 4 of 4 epochs, 1/s, 0 s left",
        "fit: 1 of 4 epochs",
        "",
    ]


@pytest.mark.parametrize("columns", [20, 60, 300])
def test_a_line_is_no_longer_than_the_terminal_is_wide(columns):
    drawn = re.findall(r"\r([^\r\n\x1b]+)\x1b\[K", on_terminal(columns=columns))
    long = next(line for line in drawn if line.startswith("fit: 2"))
    assert len(long) == min(columns - 1, len("fit: 2 of 4 epochs, 1/s, 2 s left | ") + 200)


def test_an_error_begins_a_line_of_its_own():
    shown = screen(on_terminal(name="fails"))
    assert shown[2] == "fit: 1 of 4 epochs" and shown[3].startswith("error: ValueError: no")


def test_quiet_shows_nothing_and_a_dumb_terminal_no_codes():
    assert on_terminal("--quiet") == ""
    assert "\x1b" not in on_terminal(TERM="dumb")
