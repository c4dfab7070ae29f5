"""Does a build that is killed and started again make the same data set, and pay for no annotation twice?

    python bench/build_kills.py [--kills 10] [--tweets 240] [--seed 0]

A corpus in the proportions of Twitter GMNER v2 is built undisturbed once, with summaries from a server on the loopback.
Then one build of it is killed with SIGKILL at random moments and started again each time, and once more to its end; one
that is published before its next kill is followed by another, from nothing. Each folder must be the undisturbed one,
byte for byte, and what was asked twice must be no more than what was under way at the kills: questions that the server
had got and of which no answer was on the disk. Prints a JSON document with an entry a kill; the exit status is 1 where
anything differs.
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
from stub_server import Stub, serving

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
    """One corpus and one server."""

    folder: Path
    stub: Stub

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Build into a folder of this name."""
        spec = self.folder / f"{name}.yaml"
        spec.write_text(SPEC.replace("URL", self.stub.url).replace("OUTPUT", name))
        with (self.folder / f"{name}.txt").open("ab") as output:
            return subprocess.Popen([str(RUNNER), "build", spec.name], cwd=self.folder, stdout=output, stderr=output)

    def finish(self, name: str) -> None:
        """Build to the end."""
        if self.start(name).wait():
            raise SystemExit((self.folder / f"{name}.txt").read_text()[-3000:])

    def wait_for_work(self, name: str, process: subprocess.Popen[bytes], read: int) -> None:
        """Wait until a build is where the one before it was: it cuts, or is about to ask.

        Args:
            name: Of the build.
            process: It.
            read: How much builds before it have printed, in bytes.
        """
        output = self.folder / f"{name}.txt"
        while process.poll() is None:
            told = output.read_bytes()[read:]
            if b"cropping" in told or b"annotate:" in told:
                return
            time.sleep(0.02)

    def content(self, name: str) -> dict[str, str]:
        """Each file of a data set, and its hash."""
        files = (file for file in (self.folder / name).rglob("*") if file.is_file())
        return {
            file.relative_to(self.folder / name).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in files
        }

    def stage(self, name: str) -> str:
        """The last stage that is done."""
        done = [each.parent.name for each in self.folder.glob(f"{name}.build/*/done.json")]
        return next((each for each in ("publish", "split", "annotate", "crop", "import") if each in done), "none")

    def answers(self, name: str) -> int:
        """How many answers are on the disk, whole."""
        file = self.folder / f"{name}.build" / "annotate" / "answers.jsonl"
        return file.read_bytes().count(b"\n") if file.exists() else 0


def drill(folder: Path, stub: Stub, tweets: int, kills: int, seed: int) -> dict[str, Any]:
    """Kill and start again as often as asked; see the module."""
    write_corpus(folder / "corpus", tweets, seed)
    each, draw = Drill(folder, stub), random.Random(seed)
    began = time.monotonic()
    each.finish("undisturbed")
    length, undisturbed = time.monotonic() - began, each.content("undisturbed")
    told: list[dict[str, Any]] = []
    builds = 0
    while len(told) < kills:
        name = f"killed-{builds}"
        builds += 1
        stub.asked.clear()
        found = _kill_often(each, name, sorted(draw.uniform(0, length) for _ in range(kills - len(told))))
        each.finish(name)
        twice = Counter({question: times - 1 for question, times in stub.asked.items()}).total()
        underway = sum(kill["underway"] for kill in found)
        content = each.content(name)
        differ = sorted(file for file in content | undisturbed if content.get(file) != undisturbed.get(file))
        about = {"build": name, "other_files": differ, "asked_twice_in_this_build": twice}
        told += [{**kill, **about} for kill in found]
        right = not differ and twice <= underway and all(kill["underway"] <= CONCURRENCY for kill in found)
        print(f"{name}: {len(found)} kills, {twice} asked twice, {underway} under way, {differ}", file=sys.stderr)
        if not right:
            break
    return {"seconds_undisturbed": round(length, 1), "samples": len(stub.asked), "right": right, "kills": told}


def _kill_often(each: Drill, name: str, moments: list[float]) -> list[dict[str, Any]]:
    """Kill at moments of the undisturbed build's course, as far as a build goes on where the one before it was."""
    told, before = [], 0.0
    for moment in moments:
        output = each.folder / f"{name}.txt"
        read = output.stat().st_size if before else 0
        process = each.start(name)
        if before:
            each.wait_for_work(name, process, read)
        try:
            process.wait(moment - before)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        else:
            return told
        time.sleep(DELAY_SECONDS * 3)  # until what was under way has reached the server
        questions = len(each.stub.asked)
        told.append(
            {
                "moment": round(moment, 2),
                "stage_done": each.stage(name),
                "answers": each.answers(name),
                "underway": questions - each.answers(name),
            }
        )
        if each.stage(name) == "publish":
            return told
        before = moment
    return told


def main() -> None:
    """Run the drill and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--tweets", type=int, default=240)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, serving(DELAY_SECONDS) as stub:
        told = drill(Path(folder), stub, asked.tweets, asked.kills, asked.seed)
    print(json.dumps(told, indent=2))
    sys.exit(not told["right"])


if __name__ == "__main__":
    main()
