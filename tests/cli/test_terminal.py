"""The display of a launch: bars on a terminal, a few lines elsewhere, results of both parse modes side by side."""

import errno
import io
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from runner.cli.plan_and_preview_display import plan_tables
from runner.cli.progress import PLAIN_LINES, Terminal
from runner.cli.results_display import results_table
from runner.execute.results_and_interfaces import TrialResult
from runner.resolved_plan import Trial


def shown(renderable):
    console = Console(file=io.StringIO(), width=160)
    console.print(renderable)
    return console.file.getvalue()


def result(**metrics):
    trial = Trial("trial-12345678", SimpleNamespace(spec=SimpleNamespace(name="x")), {})
    return TrialResult(trial, "finished", metrics, Path("runs/x/trial-12345678"), "id", "link")


def test_without_a_terminal_a_stage_prints_a_few_lines():
    stream = io.StringIO()
    terminal = Terminal(stream)
    terminal.event("trial-1", {"kind": "state", "step": "train", "state": "started"})
    for done in range(1, 1001):
        figures = {"loss": 0.5, "samples_per_second": 80.0}
        terminal.event("trial-1", {"kind": "progress", "stage": "train", "done": done, "total": 1000, "shown": figures})
    lines = stream.getvalue().splitlines()
    assert lines[0] == "training …"
    assert len(lines) == 1 + PLAIN_LINES
    assert lines[-1] == "training 1000/1000  loss 0.5  samples per second 80"
    assert "\x1b" not in stream.getvalue()


def test_on_a_terminal_a_stage_is_a_bar_with_its_metrics(monkeypatch):
    stream = io.StringIO()
    stream.isatty = lambda: True
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "140")
    terminal = Terminal(stream)
    terminal.event("trial-1", {"kind": "progress", "stage": "train", "done": 3, "total": 4, "shown": {"loss": 0.25}})
    terminal.close()
    assert "training" in stream.getvalue()
    assert "3/4" in stream.getvalue()
    assert "loss 0.25" in stream.getvalue()


def test_a_launch_outlasts_the_reader_of_what_it_prints():
    """As `head` that has read enough, or a terminal that was closed; the process must not end with an error either."""
    read, write = os.pipe()
    with os.fdopen(write, "w") as stream:
        os.close(read)
        terminal = Terminal(stream)
        for number in range(1000):
            terminal.say(f"line {number} with some more text")
        print("what others print there", file=stream, flush=True)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EPIPE])
def test_a_line_that_cannot_be_written_is_dropped_and_the_next_one_is_not(number):
    class Full(io.StringIO):
        is_full = True

        def write(self, text):
            if self.is_full:
                raise OSError(number, os.strerror(number))
            return super().write(text)

    terminal = Terminal(stream := Full())
    terminal.say("dropped")
    stream.is_full = False
    terminal.say("written")
    assert stream.getvalue() == "written\n"


def test_results_of_both_parse_modes_are_side_by_side():
    metrics = {"ner_f1": 0.5, "bleu": None, "parse/clean": 7, "published/ner_f1": 0.25, "published/parse/clean": 3}
    printed = shown(results_table([result(**metrics)]))
    row = next(line for line in printed.splitlines() if "ner_f1" in line)
    assert "0.5000" in row
    assert "0.2500" in row
    assert "parsed as published" in printed
    assert "answers clean" in printed
    assert "null (not requested, or a warning gives the reason): bleu" in " ".join(printed.split())


def test_a_slash_in_the_name_of_a_metric_is_not_a_parse_mode():
    metrics = {"ner_f1/person": 0.5, "parse/clean": 7, "published/ner_f1/person": 0.25, "published/parse/clean": 3}
    lines = shown(results_table([result(**metrics)])).splitlines()
    row = next(line for line in lines if "ner_f1/person" in line)
    assert "0.5000" in row and "0.2500" in row
    assert "parsed as ner_f1" not in "\n".join(lines)


def test_unknown_parts_of_a_plan_are_shown_as_unknown():
    told = {
        "fingerprint": None,
        "trials": [],
        "num_samples": {},
        "steps_per_trial": None,
        "tokens": {},
        "parameters": [],
        "memory": {},
        "host_memory": {},
        "disk": {},
        "hours": {},
        "sweep": None,
        "where": "1 worker, on the CPU",
    }
    [table] = plan_tables(told)
    assert "not known yet" in shown(table)
