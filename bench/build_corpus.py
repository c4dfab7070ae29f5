"""Measures time and memory of building data sets up to the size of GMNER v2, and checks the result.

    python bench/build_corpus.py [--tweets 2500 10000] [--seed 0] [--keep grounded all]

Generates a corpus in the proportions of Twitter GMNER v2 and builds it twice, with summaries from a local server that
answers at once. Prints a JSON document for each size: seconds, CPU seconds and peak memory of both builds; the second
has nothing to do. With several values of `keep`, each builds the same tweets and images. The server is another process
on the same machine. Two checks set the exit status to 1 if they fail: each tweet with a box of a tagged entity (with
`keep: all`, each tweet) gives one sample, and each target parses back to exactly its summary, entities
and pairs, for every subset of tasks.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import chain, combinations
from pathlib import Path
from typing import Any

from gmner_corpus import write_corpus
from stub_server import StubServer, serving

from plugins.adapter.pfa import PromptFormatAdapter
from plugins.adapter.pfa_prompt import PfaOptions
from runner.dataset.folder_reader import DatasetFolder

RUNNER = Path(sys.executable).parent / "runner"
SPEC = """\
name: bench
source: {type: gmner, path: corpus, images: [corpus/twitter2015_images, corpus/twitter2017_images]}
keep: KEEP
annotator: {type: openai_compatible, model: stub, base_url: "URL", api_key_env: null}
publish: everything
output: dataset
"""
TASKS = ("summary", "ner", "match")


def measure_build(folder: Path) -> dict[str, float]:
    """Run a build and measure its process."""
    started = time.perf_counter()
    process = subprocess.Popen([str(RUNNER), "build", "bench.yaml", "--json"], cwd=folder, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the build failed with status {process.returncode}")
    return {
        "seconds": round(time.perf_counter() - started, 1),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mb": round(usage.ru_maxrss / 1024, 1),
    }


def count_parse_failures(folder: Path) -> tuple[int, int]:
    """Return the number of samples, and of those with a target that does not parse back to its reference."""
    dataset, num_samples, num_failures = DatasetFolder(folder), 0, 0
    subsets = [list(tasks) for size in (1, 2, 3) for tasks in combinations(TASKS, size)]
    adapters = [PromptFormatAdapter(PfaOptions.model_validate({"tasks": tasks}), dataset.labels) for tasks in subsets]
    for sample in chain.from_iterable(dataset.load_splits().values()):
        num_samples += 1
        for adapter in adapters:
            target = adapter.render_training(sample).target or ""
            if adapter.parse(target, "lossless").answer != adapter.reference(sample):
                num_failures += 1
                break
    return num_samples, num_failures


def measure(tweets: int, seed: int, keep: str, server: StubServer) -> dict[str, Any]:
    """Generate a corpus, build it twice, and check the targets."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = write_corpus(folder / "corpus", tweets, seed, all_images=True)
        (folder / "bench.yaml").write_text(SPEC.replace("URL", server.url).replace("KEEP", keep))
        first, second = measure_build(folder), measure_build(folder)
        num_samples, num_failures = count_parse_failures(folder / "dataset")
    return {
        "keep": keep,
        "tweets": corpus.tweets,
        "tweets_with_a_box": corpus.with_box,
        "expected": corpus.tweets if keep == "all" else corpus.with_box,
        "samples": num_samples,
        "first_build": first,
        "second_build": second,
        "targets_not_read_back": num_failures,
    }


def main() -> None:
    """Measure each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tweets", type=int, nargs="+", default=[2500, 10_000])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", nargs="+", choices=("grounded", "all"), default=["grounded"])
    arguments = parser.parse_args()
    with serving() as server:
        results = [
            measure(tweets, arguments.seed, keep, server) for tweets in arguments.tweets for keep in arguments.keep
        ]
    print(json.dumps(results, indent=2))
    sys.exit(any(size["samples"] != size["expected"] or size["targets_not_read_back"] for size in results))


if __name__ == "__main__":
    main()
