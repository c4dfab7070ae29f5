"""What does building a data set of the size of GMNER v2 take, and does its memory grow with its size?

    python bench/build_corpus.py [--tweets 2500 10000] [--seed 0]

Makes a corpus in the proportions of Twitter GMNER v2, builds it with summaries from a server on the loopback that
answers at once, and builds it again. Prints a JSON document: seconds, processor seconds and peak memory of the first
build (the server is another process, on the same machine), seconds of the second, which has nothing to do; whether the
samples are as many as the tweets with a box of a tagged entity; and of how many samples a target that the adapter
renders, of any subset of tasks, is not read back as exactly its summary, entities and pairs. The exit status is 1 where
either is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import combinations
from pathlib import Path
from typing import Any

from gmner_corpus import write_corpus
from stub_server import Stub, serving

from plugins.adapter.pfa import PromptFormatAdapter
from plugins.adapter.pfa_prompt import PfaOptions
from runner.dataset.folder import DatasetFolder

RUNNER = Path(sys.executable).parent / "runner"
SPEC = """\
name: bench
source: {type: gmner, path: corpus}
annotator: {type: openai_compatible, model: stub, base_url: "URL", api_key_env: null}
publish: everything
output: made
"""
TASKS = ("summary", "ner", "match")


def built(folder: Path) -> dict[str, float]:
    """Build, and measure the process."""
    began = time.perf_counter()
    process = subprocess.Popen([str(RUNNER), "build", "bench.yaml", "--json"], cwd=folder, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the build failed with status {process.returncode}")
    return {
        "seconds": round(time.perf_counter() - began, 1),
        "processor_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_mb": round(used.ru_maxrss / 1024, 1),
    }


def lost(folder: Path) -> tuple[int, int]:
    """Count the samples, and those of which a target is not read back as it was meant."""
    dataset, number, wrong = DatasetFolder(folder), 0, 0
    subsets = [list(tasks) for size in (1, 2, 3) for tasks in combinations(TASKS, size)]
    adapters = [PromptFormatAdapter(PfaOptions.model_validate({"tasks": tasks}), dataset.labels) for tasks in subsets]
    for sample in (each for samples in dataset.splits().values() for each in samples):
        number += 1
        for adapter in adapters:
            target = adapter.render_training(sample).target or ""
            if adapter.parse(target, "lossless").answer != adapter.reference(sample):
                wrong += 1
                break
    return number, wrong


def measure(tweets: int, seed: int, stub: Stub) -> dict[str, Any]:
    """Make, build, and read back."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = write_corpus(folder / "corpus", tweets, seed)
        (folder / "bench.yaml").write_text(SPEC.replace("URL", stub.url))
        first, again = built(folder), built(folder)
        number, wrong = lost(folder / "made")
    return {
        "tweets": made.tweets,
        "tweets_with_a_box": made.with_box,
        "samples": number,
        "first_build": first,
        "second_build": again,
        "targets_not_read_back": wrong,
    }


def main() -> None:
    """Measure each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tweets", type=int, nargs="+", default=[2500, 10_000])
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with serving() as stub:
        told = [measure(tweets, asked.seed, stub) for tweets in asked.tweets]
    print(json.dumps(told, indent=2))
    sys.exit(any(each["samples"] != each["tweets_with_a_box"] or each["targets_not_read_back"] for each in told))


if __name__ == "__main__":
    main()
