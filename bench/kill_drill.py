"""Does a launch that is killed and launched again end with the same weights, bit for bit?

    python bench/kill_drill.py [--kills 10] [--workers 1 2] [--strategy ddp|fsdp] [--seed 0]

For each number of workers a small experiment runs undisturbed once. Then, at random moments of its training, further
launches of it are killed with SIGKILL (the launch with every process that it started, or, each second time, the launch
alone), and launched again. Prints a JSON document: of each kill the moment, the step that the second launch went on
from, and whether its weights are the undisturbed ones. The exit status is 1 where any are not. One worker runs in the
launch's own process (`--local`), several run on Ray.
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
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

RUNNER = Path(sys.executable).parent / "runner"

SPEC = """\
name: drill
seed: 3
data: {type: synthetic, path: ../data, train: 44, test: 2}
adapter: {type: pfa, tasks: [summary, ner, match], images: lettered}
model: {type: qwen2_5_vl, size: smoke}
optimizer: {type: adamw, groups: {vision: {match: "*visual*", lr: 1e-3}, rest: {match: "*", lr: 1e-3}}}
trainer: {type: sft, epochs: 1, global_batch_size: 2, precision: fp32, save_steps: 2, validation_ratio: 0.1,
          eval_steps: 5, load_best_model_at_end: true, save_total_limit: 2}
generator: {type: transformers, max_new_tokens: 2}
metrics: [{type: ner_f1}]
tracker: {type: mlflow}
"""


@dataclass(frozen=True)
class Drill:
    """One experiment on one number of workers."""

    folder: Path
    workers: int
    strategy: str

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Launch the experiment in a folder of its own; the generated data are shared."""
        place = self.folder / name
        place.mkdir(exist_ok=True)
        (place / "drill.yaml").write_text(SPEC)
        options = [f"compute.workers={self.workers}", f"trainer.strategy={self.strategy}"]
        command = [str(RUNNER), "launch", "drill.yaml", *(word for each in options for word in ("--set", each))]
        if self.workers == 1:
            command.append("--local")
        with (place / "output.txt").open("ab") as output:
            return subprocess.Popen(command, cwd=place, stdout=output, stderr=output)

    def finish(self, name: str) -> str:
        """Launch to the end and hash the weights."""
        if self.start(name).wait():
            raise SystemExit((self.folder / name / "output.txt").read_text()[-3000:])
        [weights] = self.folder.glob(f"{name}/runs/drill/*/model/*.safetensors")
        return hashlib.sha256(weights.read_bytes()).hexdigest()

    def events(self, name: str) -> list[dict[str, Any]]:
        """What a launch has told so far; a torn last line is left out."""
        lines = [log.read_text() for log in self.folder.glob(f"{name}/runs/drill/*/events.jsonl")]
        return [json.loads(line) for line in "".join(lines).rpartition("\n")[0].splitlines()]

    def training_began(self, name: str) -> bool:
        """Whether the first step is done."""
        return any(each["kind"] == "metrics" and "train/loss" in each["values"] for each in self.events(name))

    def training_seconds(self, name: str) -> float:
        """From the first step that is done to the end of the step `train`."""
        told = self.events(name)
        first = next(each for each in told if each["kind"] == "metrics" and "train/loss" in each["values"])
        [last] = [each for each in told if each.get("step") == "train" and each.get("state") == "finished"]
        return (datetime.fromisoformat(last["time"]) - datetime.fromisoformat(first["time"])).total_seconds()

    def kill_at(self, name: str, seconds: float, *, all_processes: bool) -> int:
        """Launch, and kill some seconds after the first step.

        Returns:
            The steps that the next launch finds done.
        """
        launched = self.start(name)
        while launched.poll() is None and not self.training_began(name):
            time.sleep(0.02)
        time.sleep(seconds)
        started = psutil.Process(launched.pid).children(recursive=True) if all_processes else []
        for process in (launched, *started):
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        launched.wait()
        return max(
            (int(each.name[5:]) for each in self.folder.glob(f"{name}/runs/drill/*/checkpoints/step-*")), default=0
        )


def drill(workers: int, strategy: str, kills: int, seed: int, folder: Path) -> dict[str, Any]:
    """Kill and launch again as often as asked; see the module."""
    each = Drill(folder, workers, strategy)
    undisturbed, draw = each.finish("undisturbed"), random.Random(f"{seed} {workers} {strategy}")
    length = each.training_seconds("undisturbed")
    told = []
    for kill in range(kills):
        seconds, name = draw.uniform(0, length), f"killed-{kill}"
        found = each.kill_at(name, seconds, all_processes=kill % 2 == 0)
        same = each.finish(name) == undisturbed
        told.append({"seconds_after_first_step": round(seconds, 2), "steps_done": found, "same_weights": same})
        print(f"workers {workers}: {told[-1]}", file=sys.stderr)
    return {"workers": workers, "strategy": strategy, "training_seconds": round(length, 1), "kills": told}


def main() -> None:
    """Run the drills and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--strategy", choices=("ddp", "fsdp"), default="ddp")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    told = []
    for workers in asked.workers:
        with tempfile.TemporaryDirectory() as folder:
            told.append(drill(workers, asked.strategy, asked.kills, asked.seed, Path(folder)))
    print(json.dumps(told, indent=2))
    sys.exit(not all(kill["same_weights"] for each in told for kill in each["kills"]))


if __name__ == "__main__":
    main()
