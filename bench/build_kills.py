"""Kills builds of a data set at random moments, and checks that the restarted builds give the same data set.

    python bench/build_kills.py [--kills 10] [--tweets 240] [--seed 0]

Generates a corpus in the proportions of Twitter GMNER v2 and builds it once undisturbed, with summaries from a local
server. Then another build is killed with SIGKILL at random moments, restarted after each kill, and finally completed.
If a build publishes its data set before the next kill, a new build starts from nothing. Each data set must equal the
undisturbed one byte for byte. No more requests may be repeated than were in flight at the kills: requests that the
server had received and whose answers were not on disk. Prints a JSON document with one entry per kill; the exit status
is 1 if anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gmner_corpus import write_corpus
from stub_server import StubServer, serving

RUNNER = Path(sys.executable).parent / "runner"
CONCURRENCY = 4
DELAY_SECONDS = 0.15
SPEC = f"""\
name: drill
source: {{type: gmner, path: corpus}}
annotator: {{type: openai_compatible, model: stub, base_url: "URL", api_key_env: null, concurrency: {CONCURRENCY}}}
publish: everything
output: OUTPUT
"""


@dataclass(frozen=True)
class Drill:
    """A corpus and a server, with the builds that use them."""

    folder: Path
    server: StubServer

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Start a build whose output folder has this name."""
        spec = self.folder / f"{name}.yaml"
        spec.write_text(SPEC.replace("URL", self.server.url).replace("OUTPUT", name))
        with (self.folder / f"{name}.txt").open("ab") as output:
            return subprocess.Popen([str(RUNNER), "build", spec.name], cwd=self.folder, stdout=output, stderr=output)

    def finish(self, name: str) -> None:
        """Run a build to its end."""
        if self.start(name).wait():
            raise SystemExit((self.folder / f"{name}.txt").read_text()[-3000:])

    def wait_for_work(self, name: str, process: subprocess.Popen[bytes], offset: int) -> None:
        """Wait until a restarted build has resumed: it crops images or starts to annotate.

        Args:
            name: Name of the build.
            process: Its process.
            offset: Size in bytes of the output of earlier builds.
        """
        output = self.folder / f"{name}.txt"
        while process.poll() is None:
            new_output = output.read_bytes()[offset:]
            if b"cropping" in new_output or b"annotate:" in new_output:
                return
            time.sleep(0.02)

    def file_hashes(self, name: str) -> dict[str, str]:
        """Return the SHA-256 of each file of a data set."""
        files = (file for file in (self.folder / name).rglob("*") if file.is_file())
        return {
            file.relative_to(self.folder / name).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in files
        }

    def last_stage(self, name: str) -> str:
        """Return the last finished stage of a build."""
        finished = {file.parent.name for file in self.folder.glob(f"{name}.build/*/done.json")}
        return next(
            (stage for stage in ("publish", "split", "annotate", "crop", "import") if stage in finished), "none"
        )

    def count_answers(self, name: str) -> int:
        """Return the number of complete answers on disk."""
        file = self.folder / f"{name}.build" / "annotate" / "answers.jsonl"
        return file.read_bytes().count(b"\n") if file.exists() else 0


def run_drill(folder: Path, server: StubServer, tweets: int, kills: int, seed: int) -> dict[str, Any]:
    """Kill and restart builds until the number of kills is reached; see the module."""
    write_corpus(folder / "corpus", tweets, seed)
    drill, rng = Drill(folder, server), random.Random(seed)
    started = time.monotonic()
    drill.finish("undisturbed")
    duration, expected = time.monotonic() - started, drill.file_hashes("undisturbed")
    results: list[dict[str, Any]] = []
    builds = 0
    while len(results) < kills:
        name = f"killed-{builds}"
        builds += 1
        server.request_counts.clear()
        moments = sorted(rng.uniform(0, duration) for _ in range(kills - len(results)))
        build_kills = _kill_repeatedly(drill, name, moments)
        drill.finish(name)
        num_repeated = Counter({request: count - 1 for request, count in server.request_counts.items()}).total()
        in_flight = sum(kill["underway"] for kill in build_kills)
        hashes = drill.file_hashes(name)
        different_files = sorted(file for file in hashes | expected if hashes.get(file) != expected.get(file))
        build_results = {"build": name, "other_files": different_files, "asked_twice_in_this_build": num_repeated}
        results += [{**kill, **build_results} for kill in build_kills]
        is_right = (
            not different_files
            and num_repeated <= in_flight
            and all(kill["underway"] <= CONCURRENCY for kill in build_kills)
        )
        counts = f"{len(build_kills)} kills, {in_flight} requests in flight, {num_repeated} repeated"
        print(f"{name}: {counts}, different files: {different_files}", file=sys.stderr)
        if not is_right:
            break
    return {
        "seconds_undisturbed": round(duration, 1),
        "samples": len(server.request_counts),
        "right": is_right,
        "kills": results,
    }


def _kill_repeatedly(drill: Drill, name: str, moments: list[float]) -> list[dict[str, Any]]:
    """Kill and restart a build at moments of the undisturbed build's time; a restarted build resumes at the last one.

    Returns:
        A measurement for each kill; fewer than moments if the build finishes earlier.
    """
    results: list[dict[str, Any]] = []
    previous = 0.0
    for moment in moments:
        output = drill.folder / f"{name}.txt"
        offset = output.stat().st_size if previous else 0
        process = drill.start(name)
        if previous:
            drill.wait_for_work(name, process, offset)
        try:
            process.wait(moment - previous)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        else:
            return results
        time.sleep(DELAY_SECONDS * 3)  # until the requests in flight have reached the server
        num_requests = len(drill.server.request_counts)
        results.append(
            {
                "moment": round(moment, 2),
                "stage_done": drill.last_stage(name),
                "answers": drill.count_answers(name),
                "underway": num_requests - drill.count_answers(name),
            }
        )
        if drill.last_stage(name) == "publish":
            return results
        previous = moment
    return results


def main() -> None:
    """Run the drill and print its results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--tweets", type=int, default=240)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, serving(DELAY_SECONDS) as server:
        results = run_drill(Path(folder), server, arguments.tweets, arguments.kills, arguments.seed)
    print(json.dumps(results, indent=2))
    sys.exit(not results["right"])


if __name__ == "__main__":
    main()
