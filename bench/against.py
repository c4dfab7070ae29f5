"""Compares the CPU time of commands in this checkout with that in another checkout.

    python bench/against.py OTHER_CHECKOUT [--what smoke plan evaluate checks demo test test-slow ci] [--rounds 3]

Runs each command alternately in this checkout and in the other one; both need an installed `.venv`. Prints one line of
JSON per command: the median CPU seconds of the whole process tree, including processes that outlive their parents, and
the ratio. `checks` measures only the label checks; `demo` measures training and generation. `ci` is `.ci/run` in a
fresh clone of each checkout, including its installation.
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
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parent.parent
PR_SET_CHILD_SUBREAPER = 36
"""From Linux's prctl.h: orphaned processes become children of this process, so that it can count their time."""
ORPHAN_TIMEOUT_SECONDS = 60.0
"""Seconds that processes left behind by a command get to exit before they are killed."""
NUM_PREDICTIONS = 1660
"""Size of the test split of the paper's data set: 30 % of 5,533."""
WORDS_PER_SUMMARY = 53
"""Mean number of words of a summary in the paper's data set."""
LABELS = ("person", "location", "organization", "other")


def tree_seconds(command: list[str], folder: Path) -> float:
    """Run a command and return the CPU seconds, user and system, of it and all its descendants.

    A control group of its own counts them if this user may create one. Otherwise only processes that were waited for
    count, which misses some of Ray's.

    Raises:
        CalledProcessError: The command failed.
    """
    group = _create_control_group()
    join = ["sh", "-c", 'echo $$ > "$0/cgroup.procs"; exec "$@"', str(group)] if group else []
    try:
        start = _cpu_seconds(group)
        process = subprocess.Popen(
            [*join, *command], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        _, errors = process.communicate()
        _reap_orphans()
        seconds = _cpu_seconds(group) - start
    finally:
        if group is not None:
            with suppress(OSError):  # killed processes may not have exited yet
                group.rmdir()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, stderr=errors)
    return seconds


def _create_control_group() -> Path | None:
    """Create a control group (version 1 or 2) that counts CPU time; return None without permission."""
    for parent in (Path("/sys/fs/cgroup/cpuacct"), Path("/sys/fs/cgroup")):
        group = parent / f"against-{os.getpid()}"
        with suppress(OSError):
            group.mkdir(exist_ok=True)
            if (group / "cgroup.procs").exists():
                return group
    return None


def _cpu_seconds(group: Path | None) -> float:
    """Return the CPU seconds used so far by a control group, or without one by the processes that were waited for."""
    if group is None:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime
    if (group / "cpuacct.usage").exists():
        return int((group / "cpuacct.usage").read_text()) / 1e9
    cpu_stat = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
    return int(cpu_stat["usage_usec"]) / 1e6


def _reap_orphans() -> None:
    """Wait for processes that outlived the command; kill those that do not exit in time."""
    deadline = time.monotonic() + ORPHAN_TIMEOUT_SECONDS
    while True:
        with suppress(ChildProcessError):
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                if time.monotonic() > deadline:
                    for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
                        os.kill(int(child), signal.SIGKILL)
                time.sleep(0.05)
            continue
        return


def sum_printed_values(command: list[str], *names: str) -> float:
    """Run a command that prints JSON and return the sum of the named values."""
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    values = json.loads(done.stdout.splitlines()[-1])
    return float(sum(values[name] for name in names))


def write_predictions(folder: Path) -> None:
    """Write references and answers: in summaries a third of the words differ, and a fifth of the pairs is missing."""
    rng = random.Random(0)
    vocabulary = ["".join(rng.choices("abcdefghiklmnoprstuvw", k=rng.randint(2, 11))) for _ in range(4000)]

    def text(summary: list[str], pairs: list[tuple[str, str]]) -> str:
        ner = "".join(f":{label};{entity}" for label, entity in pairs)
        mapping = {chr(97 + index): entity for index, (_, entity) in enumerate(pairs)}
        return f"Task 1 Answer: {' '.join(summary)}\nTask 2 Answer:\nNER:\n{ner}\nimage entities pair{mapping}"

    with (folder / "references.jsonl").open("w") as references, (folder / "predictions.jsonl").open("w") as predictions:
        for number in range(NUM_PREDICTIONS):
            words = rng.choices(vocabulary, k=rng.randint(WORDS_PER_SUMMARY - 20, WORDS_PER_SUMMARY + 20))
            output_words = [word if rng.random() < 0.67 else rng.choice(vocabulary) for word in words]
            pairs = [(rng.choice(LABELS), rng.choice(vocabulary).title()) for _ in range(rng.randint(0, 4))]
            output_pairs = [pair for pair in pairs if rng.random() < 0.8]
            references.write(json.dumps({"id": str(number), "target": text(words, pairs)}) + "\n")
            predictions.write(json.dumps({"id": str(number), "output": text(output_words, output_pairs)}) + "\n")


def create_measurement(what: str, checkout: Path, folder: Path) -> Callable[[], float]:
    """Return a function that runs and measures a command of a checkout in a folder of its own."""
    runner, python = str(checkout / ".venv/bin/runner"), str(checkout / ".venv/bin/python")
    # Both checkouts check equally many samples: tiny_base.yaml has as many as tiny_mmre.yaml had before it existed.
    checked_spec = next(
        spec for name in ("base", "mmre") if (spec := checkout / "specs" / f"tiny_{name}.yaml").exists()
    )
    steps = [python, str(ROOT / "bench" / "demo_steps.py")]
    specs = folder / "specs"
    shutil.copytree(checkout / "specs", specs, dirs_exist_ok=True)

    def smoke() -> float:
        shutil.rmtree(folder / "runs", ignore_errors=True)
        return tree_seconds([runner, "launch", str(specs / "tiny_mmre.yaml"), "--smoke"], folder)

    def evaluate() -> float:
        write_predictions(folder)
        files = ["--predictions", "predictions.jsonl", "--references", "references.jsonl"]
        return tree_seconds([runner, "evaluate", *files, "--json"], folder)

    def ci() -> float:
        clone = folder / "clone"
        shutil.rmtree(clone, ignore_errors=True)
        subprocess.run(["git", "clone", "--quiet", checkout, clone], check=True)
        return tree_seconds(["bash", ".ci/run"], clone)

    measurements: dict[str, Callable[[], float]] = {
        "smoke": smoke,
        "plan": lambda: tree_seconds([runner, "plan", str(specs / "qwen_mmre.yaml")], folder),
        "evaluate": evaluate,
        "checks": lambda: sum_printed_values([*steps, str(checked_spec), "--only", "checks"], "checks"),
        "demo": lambda: sum_printed_values([*steps, str(checkout / "specs" / "tiny_mmre.yaml")], "training", "answers"),
        "test": lambda: tree_seconds(["make", "test"], checkout),
        "test-slow": lambda: tree_seconds(["make", "test-slow"], checkout),
        "ci": ci,
    }
    return measurements[what]


def main() -> None:
    """Measure both checkouts alternately and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="folder of the other checkout")
    quick = ["smoke", "plan", "evaluate", "checks"]
    parser.add_argument("--what", nargs="+", choices=[*quick, "demo", "test", "test-slow", "ci"], default=quick)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with tempfile.TemporaryDirectory() as temporary_folder:
        for what in arguments.what:
            measurements = []
            for name, checkout in (("this", ROOT), ("other", arguments.other.resolve())):
                (folder := Path(temporary_folder) / what / name).mkdir(parents=True)
                measurements.append(create_measurement(what, checkout, folder))
            rounds = [[measure() for measure in measurements] for _ in range(arguments.rounds)]
            ours, theirs = (statistics.median(seconds) for seconds in zip(*rounds, strict=True))
            ratios = [round(one / other, 3) for one, other in rounds]
            result = {
                "what": what,
                "this": round(ours, 2),
                "other": round(theirs, 2),
                "ratio": statistics.median(ratios),
            }
            print(json.dumps({**result, "ratios": ratios}), flush=True)


if __name__ == "__main__":
    main()
