"""Measures the CPU time of `runner validate`.

    python bench/validate.py [--rounds 12] [SPEC…]

Runs `runner validate` alternately with the import of the libraries it is built on, each in its own process. Prints a
JSON document with the medians and minima of their CPU seconds, and the ratio of the minima, which is comparable between
machines: docs/interface.md promises 0.3 s on a machine that takes 0.1 s for the libraries.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
from pathlib import Path

SPEC = Path(__file__).parent.parent / "specs" / "tiny_mmre.yaml"
LIBRARIES = [sys.executable, "-c", "import pydantic.main, typer, yaml"]


def cpu_seconds(*command: str) -> float:
    """Return the user and system seconds of a command and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure both commands and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("specs", nargs="*", default=[str(SPEC)])
    arguments = parser.parse_args()
    validate = [str(Path(sys.executable).with_name("runner")), "validate", *arguments.specs]
    rounds = [(cpu_seconds(*validate), cpu_seconds(*LIBRARIES)) for _ in range(arguments.rounds)]
    ours, theirs = zip(*rounds, strict=True)
    results = {
        name: {"median": round(statistics.median(seconds), 3), "min": round(min(seconds), 3)}
        for name, seconds in (("validate", ours), ("libraries", theirs))
    }
    print(json.dumps({**results, "ratio": round(min(ours) / min(theirs), 2)}, indent=2))


if __name__ == "__main__":
    main()
