"""Commands and outputs of a page, run again: what the page shows must be printed, in its order."""

import re
from dataclasses import dataclass

BLOCK = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```", flags=re.DOTALL | re.MULTILINE)
FILE = re.compile(r"# (?P<name>[\w.]+\.yaml)\n")


@dataclass(frozen=True)
class Step:
    """A file that the page shows, or a command with what it printed."""

    command: str
    shown: str


def steps(page):
    """What a page does, in its order: files to write as `write NAME`, and commands."""
    for block in BLOCK.finditer(page):
        named = FILE.match(block["text"])
        if block["language"] == "yaml" and named:
            yield Step(f"write {named['name']}", block["text"])
        elif block["text"].startswith("$ "):
            for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block["text"], flags=re.MULTILINE):
                yield Step(command, shown)


def is_printed(shown, output):
    """Whether each line that is shown is printed, one after the other; `…` stands for anything in a line."""
    place = 0
    lines = [" ".join(line.split()) for line in output.splitlines()]
    for line in shown.splitlines():
        wanted = re.compile(".*".join(re.escape(part) for part in " ".join(line.split()).split("…")))
        place = next((at + 1 for at in range(place, len(lines)) if wanted.fullmatch(lines[at])), -1)
        if place < 0:
            return False
    return True
