"""Reads commands and their outputs from a page, and compares the outputs with those of a new run."""

import re
from dataclasses import dataclass

BLOCK = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```", flags=re.DOTALL | re.MULTILINE)
FILE_NAME = re.compile(r"# (?P<name>[\w.]+\.(?:yaml|py))\n")


@dataclass(frozen=True)
class Step:
    """A file of the page, or a command with its expected output."""

    command: str
    expected: str


def read_steps(page):
    """Yield the steps of a page in order: its files as `write NAME`, and its commands."""
    for block in BLOCK.finditer(page):
        file_name = FILE_NAME.match(block["text"])
        if block["language"] in {"yaml", "python"} and file_name:
            yield Step(f"write {file_name['name']}", block["text"])
        elif block["text"].startswith("$ "):
            for command, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block["text"], flags=re.MULTILINE):
                yield Step(command, expected)


def is_printed(expected, output):
    """Return whether an output contains the expected lines in order; `…` stands for any text within a line."""
    printed_lines = (" ".join(line.split()) for line in output.splitlines())
    for line in expected.splitlines():
        pattern = re.compile(".*".join(re.escape(part) for part in " ".join(line.split()).split("…")))
        if not any(pattern.fullmatch(printed) for printed in printed_lines):  # consumes the lines up to the match
            return False
    return True
