"""Kills launches while they train, and checks that relaunched trainings end with bit-identical weights.

    python bench/kill_drill.py [--kills 10] [--workers 1 2] [--strategy ddp|fsdp] [--seed 0]
        [--moments any step write end]

For each number of workers, a small experiment runs once undisturbed. Further launches of it are killed with SIGKILL in
their training, and relaunched. Kills alternate between the launch with all its child processes and the launch process
alone. The moments of the kills take turns:

- `any`: a random moment of the training
- `step`: right after a random optimizer step
- `write`: while a checkpoint is written in the background, after a random number of steps
- `end`: right after a checkpoint is complete, after a random number of steps

Prints a JSON document with an entry per kill: its moment, the step from which the second launch resumed, whether the
kill left an incomplete checkpoint, and whether the weights equal the undisturbed ones. The exit status is 1 if any
differ. One worker runs in the process of the launch (`--local`), several run on Ray.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
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


MOMENTS = ("any", "step", "write", "end")


@dataclass(frozen=True)
class Drill:
    """An experiment with a number of workers."""

    folder: Path
    workers: int
    strategy: str

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Launch the experiment in a folder of its own; the generated data are shared."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        (folder / "drill.yaml").write_text(SPEC)
        options = [f"compute.workers={self.workers}", f"trainer.strategy={self.strategy}"]
        command = [str(RUNNER), "launch", "drill.yaml", *(word for option in options for word in ("--set", option))]
        if self.workers == 1:
            command.append("--local")
        with (folder / "output.txt").open("ab") as output:
            return subprocess.Popen(command, cwd=folder, stdout=output, stderr=output)

    def finish(self, name: str) -> str:
        """Launch, wait for the end, and return the SHA-256 of the weights."""
        if self.start(name).wait():
            raise SystemExit((self.folder / name / "output.txt").read_text()[-3000:])
        [weights] = self.folder.glob(f"{name}/runs/drill/*/model/*.safetensors")
        return hashlib.sha256(weights.read_bytes()).hexdigest()

    def read_events(self, name: str) -> list[dict[str, Any]]:
        """Return the events of a launch so far, without an incomplete last line."""
        lines = [log.read_text() for log in self.folder.glob(f"{name}/runs/drill/*/events.jsonl")]
        return [json.loads(line) for line in "".join(lines).rpartition("\n")[0].splitlines()]

    def has_trained_step(self, name: str) -> bool:
        """Return whether the first training step is done."""
        return any(_is_training_loss(event) for event in self.read_events(name))

    def training_seconds(self, name: str) -> float:
        """Return the seconds from the first training step to the end of the step `train`."""
        events = self.read_events(name)
        first = next(event for event in events if _is_training_loss(event))
        [last] = [event for event in events if event.get("step") == "train" and event.get("state") == "finished"]
        return (datetime.fromisoformat(last["time"]) - datetime.fromisoformat(first["time"])).total_seconds()

    def checkpoints(self, name: str, pattern: str = "step-*") -> set[str]:
        """Return the names of the checkpoints of a launch; incomplete ones match `.step-*`."""
        return {folder.name for folder in self.folder.glob(f"{name}/runs/drill/*/checkpoints/{pattern}")}

    def kill_at(self, name: str, seconds: float, moment: str, *, all_processes: bool) -> tuple[int, bool] | None:
        """Launch, and kill the launch at the first such moment after a time.

        Args:
            name: Folder of the launch.
            seconds: Time after the first training step.
            moment: See the module.
            all_processes: Whether child processes are killed too.

        Returns:
            The last step with a checkpoint, from which the next launch resumes, and whether a checkpoint is incomplete.
            None if the launch ended before the moment came.
        """
        launch = self.start(name)
        while launch.poll() is None and not self.has_trained_step(name):
            time.sleep(0.02)
        time.sleep(seconds)
        self._wait_for(name, launch, moment)
        if launch.poll() is not None:
            return None
        children = psutil.Process(launch.pid).children(recursive=True) if all_processes else []
        for process in (launch, *children):
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        launch.wait()
        saved, unfinished = self.checkpoints(name), self.checkpoints(name, ".step-????????")
        return max((int(checkpoint[5:]) for checkpoint in saved), default=0), bool(unfinished)

    def _wait_for(self, name: str, launch: subprocess.Popen[bytes], moment: str) -> None:
        """Wait until the moment comes, or the launch ends."""
        saved, num_events = self.checkpoints(name), len(self.read_events(name))
        while launch.poll() is None:
            if moment == "write" and self.checkpoints(name, ".step-????????"):
                return
            if moment == "end" and self.checkpoints(name) - saved:
                return
            if moment == "step" and any(map(_is_training_loss, self.read_events(name)[num_events:])):
                return
            if moment == "any":
                return
            time.sleep(0.0005)


def _is_training_loss(event: dict[str, Any]) -> bool:
    return event["kind"] == "metrics" and "train/loss" in event["values"]


def run_drill(
    workers: int, strategy: str, kills: int, seed: int, folder: Path, moments: Sequence[str] = MOMENTS
) -> dict[str, Any]:
    """Kill and relaunch the experiment this number of times; see the module."""
    drill, rng = Drill(folder, workers, strategy), random.Random(f"{seed} {workers} {strategy}")
    expected_hash = drill.finish("undisturbed")
    duration = drill.training_seconds("undisturbed")
    results = []
    for kill in range(kills):
        moment, name = moments[kill % len(moments)], f"killed-{kill}"
        # The other moments need some more steps.
        seconds = rng.uniform(0, duration if moment == "any" else duration / 2)
        all_processes = kill // len(moments) % 2 == 0
        while (killed := drill.kill_at(name, seconds, moment, all_processes=all_processes)) is None:
            shutil.rmtree(folder / name)
            seconds /= 2
        resumed_step, is_incomplete = killed
        same = drill.finish(name) == expected_hash
        results.append(
            {
                "moment": moment,
                "seconds_after_first_step": round(seconds, 2),
                "steps_done": resumed_step,
                "incomplete_checkpoint": is_incomplete,
                "same_weights": same,
            }
        )
        print(f"workers {workers}: {results[-1]}", file=sys.stderr)
    return {"workers": workers, "strategy": strategy, "training_seconds": round(duration, 1), "kills": results}


def main() -> None:
    """Run the drills and print their results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--strategy", choices=("ddp", "fsdp"), default="ddp")
    parser.add_argument("--moments", choices=MOMENTS, nargs="+", default=MOMENTS)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    results = []
    for workers in arguments.workers:
        with tempfile.TemporaryDirectory() as folder:
            results.append(
                run_drill(workers, arguments.strategy, arguments.kills, arguments.seed, Path(folder), arguments.moments)
            )
    print(json.dumps(results, indent=2))
    sys.exit(not all(kill["same_weights"] for result in results for kill in result["kills"]))


if __name__ == "__main__":
    main()
