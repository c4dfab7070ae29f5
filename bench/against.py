"""How much CPU time does this build take, against another one?

    python bench/against.py OTHER_CHECKOUT [--what smoke plan evaluate checks demo test test-slow ci] [--rounds 3]

Runs each command in turns in this checkout and in another one, both with their `.venv` installed, and prints a line of
JSON for each: the CPU seconds of the whole process tree, processes that outlive their parents included, as medians, and
their ratio. Of `checks` and `demo` only the label checks count, and the training with the answers. `ci` is `.ci/run` in
a fresh clone of each, with its installation.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

HERE = Path(__file__).parent.parent
BE_SUBREAPER = 36
"""`PR_SET_CHILD_SUBREAPER` of Linux's prctl.h: orphans become children of this process, which can count them then."""
LAST_SECONDS = 60.0
"""How long what a command leaves running may take to end by itself."""
NUM_ANSWERS = 1660
"""A test split of the paper's data set: 30 % of 5,533."""
WORDS_PER_SUMMARY = 53
"""The paper's mean."""
LABELS = ("person", "location", "organization", "other")


def tree_seconds(command: list[str], folder: Path) -> float:
    """CPU seconds, user and system, of a command and all processes that come of it.

    Counted by a control group of the command's own where this user may make one; else by what is waited for, which
    misses processes that nobody waits for, such as some of Ray's.

    Raises:
        CalledProcessError: It failed.
    """
    group = _control_group()
    join = ["sh", "-c", 'echo $$ > "$0/cgroup.procs"; exec "$@"', str(group)] if group else []
    try:
        before = _spent(group)
        process = subprocess.Popen(
            [*join, *command], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        _, told = process.communicate()
        _await_orphans()
        spent = _spent(group) - before
    finally:
        if group is not None:
            with suppress(OSError):  # what was killed may not have ended yet
                group.rmdir()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, stderr=told)
    return spent


def _control_group() -> Path | None:
    """Make a group that counts CPU time, of either version of Linux's control groups; None without leave to."""
    for place in (Path("/sys/fs/cgroup/cpuacct"), Path("/sys/fs/cgroup")):
        group = place / f"against-{os.getpid()}"
        with suppress(OSError):
            group.mkdir(exist_ok=True)
            if (group / "cgroup.procs").exists():
                return group
    return None


def _spent(group: Path | None) -> float:
    """CPU seconds so far of a group; of None, of the processes that were waited for."""
    if group is None:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime
    if (group / "cpuacct.usage").exists():
        return int((group / "cpuacct.usage").read_text()) / 1e9
    told = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
    return int(told["usage_usec"]) / 1e6


def _await_orphans() -> None:
    """Reap what has outlived the command; end what does not end by itself."""
    until = time.monotonic() + LAST_SECONDS
    while True:
        with suppress(ChildProcessError):
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                if time.monotonic() > until:
                    for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
                        os.kill(int(child), signal.SIGKILL)
                time.sleep(0.05)
            continue
        return


def printed_seconds(command: list[str], *names: str) -> float:
    """The sum of some of the figures that a command prints as JSON."""
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout.splitlines()[-1])
    return float(sum(told[name] for name in names))


def write_answers(folder: Path) -> None:
    """Write answers to many questions and what is right: summaries of which a third of the words differ, and pairs."""
    chance = random.Random(0)
    vocabulary = ["".join(chance.choices("abcdefghiklmnoprstuvw", k=chance.randint(2, 11))) for _ in range(4000)]

    def text(summary: list[str], pairs: list[tuple[str, str]]) -> str:
        ner = "".join(f":{label};{entity}" for label, entity in pairs)
        shown = {chr(97 + at): entity for at, (_, entity) in enumerate(pairs)}
        return f"Task 1 Answer: {' '.join(summary)}\nTask 2 Answer:\nNER:\n{ner}\nimage entities pair{shown}"

    with (folder / "right.jsonl").open("w") as right, (folder / "answers.jsonl").open("w") as answers:
        for number in range(NUM_ANSWERS):
            words = chance.choices(vocabulary, k=chance.randint(WORDS_PER_SUMMARY - 20, WORDS_PER_SUMMARY + 20))
            told = [each if chance.random() < 0.67 else chance.choice(vocabulary) for each in words]
            pairs = [(chance.choice(LABELS), chance.choice(vocabulary).title()) for _ in range(chance.randint(0, 4))]
            read = [each for each in pairs if chance.random() < 0.8]
            right.write(json.dumps({"id": str(number), "target": text(words, pairs)}) + "\n")
            answers.write(json.dumps({"id": str(number), "output": text(told, read)}) + "\n")


def measures(what: str, checkout: Path, place: Path) -> Callable[[], float]:
    """What is measured in a checkout, in a folder of its own."""
    runner, python = str(checkout / ".venv/bin/runner"), str(checkout / ".venv/bin/python")
    # The checks of as many samples in both: the demo had those of tiny_base.yaml before it had fewer.
    many = next(each for name in ("base", "mmre") if (each := checkout / "specs" / f"tiny_{name}.yaml").exists())
    steps = [python, str(HERE / "bench" / "demo_steps.py")]
    specs = place / "specs"
    shutil.copytree(checkout / "specs", specs, dirs_exist_ok=True)

    def smoke() -> float:
        shutil.rmtree(place / "runs", ignore_errors=True)
        return tree_seconds([runner, "launch", str(specs / "tiny_mmre.yaml"), "--smoke"], place)

    def evaluate() -> float:
        write_answers(place)
        files = ["--predictions", "answers.jsonl", "--references", "right.jsonl"]
        return tree_seconds([runner, "evaluate", *files, "--json"], place)

    def ci() -> float:
        clone = place / "clone"
        shutil.rmtree(clone, ignore_errors=True)
        subprocess.run(["git", "clone", "--quiet", checkout, clone], check=True)
        return tree_seconds(["bash", ".ci/run"], clone)

    known: dict[str, Callable[[], float]] = {
        "smoke": smoke,
        "plan": lambda: tree_seconds([runner, "plan", str(specs / "qwen_mmre.yaml")], place),
        "evaluate": evaluate,
        "checks": lambda: printed_seconds([*steps, str(many), "--only", "checks"], "checks"),
        "demo": lambda: printed_seconds([*steps, str(checkout / "specs" / "tiny_mmre.yaml")], "training", "answers"),
        "test": lambda: tree_seconds(["make", "test"], checkout),
        "test-slow": lambda: tree_seconds(["make", "test-slow"], checkout),
        "ci": ci,
    }
    return known[what]


def main() -> None:
    """Measure in turns and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path)
    quick = ["smoke", "plan", "evaluate", "checks"]
    parser.add_argument("--what", nargs="+", choices=[*quick, "demo", "test", "test-slow", "ci"], default=quick)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    ctypes.CDLL(None).prctl(BE_SUBREAPER, 1, 0, 0, 0)
    with tempfile.TemporaryDirectory() as place:
        for what in chosen.what:
            both = []
            for name, checkout in (("this", HERE), ("other", chosen.other.resolve())):
                (folder := Path(place) / what / name).mkdir(parents=True)
                both.append(measures(what, checkout, folder))
            rounds = [[measure() for measure in both] for _ in range(chosen.rounds)]
            ours, theirs = (statistics.median(each) for each in zip(*rounds, strict=True))
            ratios = [round(one / other, 3) for one, other in rounds]
            told = {"what": what, "this": round(ours, 2), "other": round(theirs, 2), "ratio": statistics.median(ratios)}
            print(json.dumps({**told, "ratios": ratios}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
