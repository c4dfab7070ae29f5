"""Trials on a cluster of several nodes that claim four A100s each; the devices stay CPUs, joined by gloo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from cluster import Cluster

from runner.errors import RequirementError
from runner.resolved_plan import resolve
from runner.spec.experiment_spec import ComputeOptions
from runner.spec.load import load_spec
from runner.trial.run_directory_and_events import RunDirectory

pytestmark = pytest.mark.slow

SPEC = """\
name: rack
seed: 5
data: {type: synthetic, path: data, train: 24, test: 4}
adapter: {type: pfa, tasks: [ner, match], images: lettered}
model: {type: qwen2_5_vl, size: smoke}
optimizer: {type: adamw, groups: {vision: {match: "*visual*", lr: 1e-3}, rest: {match: "*", lr: 1e-3}}}
trainer: {type: sft, epochs: 3, global_batch_size: 4, precision: fp32, save_steps: 1}
generator: {type: transformers, max_new_tokens: 8}
metrics: [{type: ner_f1}, {type: rouge}]
tracker: {type: mlflow}
"""
FOUR = {"workers": 2, "gpus_per_worker": 2, "cpus_per_worker": 1, "accelerator": "A100"}
EIGHT = {**FOUR, "gpus_per_worker": 4}
HEAD = 0
ALONE = """\
import sys
from pathlib import Path
from runner.trial.run_trial import outcome_of_trial
from runner.resolved_plan import read_plan
ended = outcome_of_trial(read_plan(Path(sys.argv[1], "plan.json").read_text()), Path(sys.argv[1]))
sys.exit(str(ended.error) if ended.error else None)
"""


class Quiet:
    def progress(self, done, total, **shown):
        pass


class Rack:
    """A driver at a cluster, and run directories of one plan."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        from runner.execute.ray.ray_executor import RayExecutor

        self.cluster, self.folder = cluster, folder
        self.executor = RayExecutor(cluster.address)
        file = folder / "rack.yaml"
        file.write_text(SPEC)
        self.plan = resolve(load_spec(file).spec, Quiet())

    def directory(self, name: str) -> RunDirectory:
        """A storage of its own, so that it finds no training of another trial in the cache."""
        return RunDirectory(self.folder / name / "rack" / "trial")

    def begin(self, name: str) -> RunDirectory:
        run = self.directory(name)
        run.create(self.plan, SPEC, [])
        return run

    def start(self, name: str, **compute):
        options = ComputeOptions(**compute)
        return self.executor.start(self.plan.spec, self.begin(name).path, options), options

    def finish(self, running):
        while (outcome := running.outcome()) is None:
            time.sleep(0.1)
        assert outcome.status == "finished", outcome.error

    def run(self, name: str, **compute):
        """Run a trial to its end and tell its figures."""
        while (running := self.start(name, **compute)[0]) is None:
            time.sleep(0.1)
        self.finish(running)
        return self.figures(name)

    def figures(self, name: str):
        """Results, and the loss of each step; one that was taken twice has the same both times."""
        run = self.directory(name)
        losses: dict[int, set[float]] = {}
        for line in run.events.read_text().splitlines():
            event = json.loads(line)
            if event["kind"] == "metrics" and "train/loss" in event["values"]:
                losses.setdefault(event["step"], set()).add(event["values"]["train/loss"])
        return run.read_metrics(), losses

    def nodes_held(self):
        """The nodes of each trial that runs, by their place in the cluster."""
        return [{self.place(node) for node in held.nodes} for held in self.executor._pool._reservations]

    def kill_actors(self):
        """End what keeps the fork servers of each node; Ray starts it again."""
        import ray

        for actor in self.executor._actors.values():
            ray.kill(actor, no_restart=False)

    def place(self, node_id: str) -> int:
        import ray

        [resources] = [each["Resources"] for each in ray.nodes() if each["NodeID"] == node_id]
        return next(place for place in range(3) if f"place-{place}" in resources)


@pytest.fixture(scope="module")
def rack(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        cluster = Cluster(tmp_path_factory.mktemp("ray"))
        try:
            for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
                patch.setenv(name, cluster.environment[name])
            made = Rack(tmp_path_factory.mktemp("rack"), cluster)
            yield made
            made.executor.close()
        finally:
            cluster.close()


def test_trials_of_four_gpus_pack_on_a_node_and_one_of_eight_spans_two(rack):
    first, _ = rack.start("four", **FOUR)
    second, _ = rack.start("four more", **FOUR)
    eight = ComputeOptions(**EIGHT)
    assert [len(nodes) for nodes in rack.nodes_held()] == [1, 1]
    assert rack.start("eight", **EIGHT)[0] is None
    waits = rack.executor.describe_wait(eight)
    assert waits.startswith("4 GPUs and 1 CPU (A100) on each of 2 nodes; free now: ")
    rack.finish(first)
    rack.finish(second)
    while (running := rack.start("eight", **EIGHT)[0]) is None:
        time.sleep(0.1)
    assert [len(nodes) for nodes in rack.nodes_held()] == [2]
    rack.finish(running)
    assert rack.nodes_held() == []
    assert rack.figures("four") == rack.figures("four more") == rack.figures("eight")


@pytest.mark.parametrize(("gpus", "num_seen"), [(1, 3), (0, 0)])
def test_the_workers_of_a_node_see_the_gpus_of_their_trial_alike(rack, monkeypatch, gpus, num_seen):
    import ray

    from runner.execute.ray import attempt, node_worker

    folder = rack.folder

    def run_worker(node, task):  # as a closure, Ray sends the function itself to the workers
        def run_in_fork(server, request):
            environment = request.environment
            (folder / f"rank-{environment['RANK']}").write_text(json.dumps(environment))
            return node_worker.Outcome("finished")

        node_worker.run_in_fork = run_in_fork
        return node_worker._run_worker(node, task).as_json()

    monkeypatch.setattr(attempt, "run_worker", ray.remote(max_retries=0, max_calls=1)(run_worker))
    options = {"workers": 3, "gpus_per_worker": gpus, "cpus_per_worker": 1}
    running, _ = rack.start(f"seen {gpus}", **options)
    while running.outcome() is None and len(list(folder.glob("rank-*"))) < 3:
        time.sleep(0.1)
    running.kill()
    environments = [json.loads((folder / f"rank-{rank}").read_text()) for rank in range(3)]
    [visible] = {each["CUDA_VISIBLE_DEVICES"] for each in environments}
    seen = visible.split(",") if visible else []
    assert len(seen) == num_seen
    assert seen == sorted(set(seen))
    assert [each["LOCAL_RANK"] for each in environments] == ["0", "1", "2"]
    assert {each["LOCAL_WORLD_SIZE"] for each in environments} == {"3"}
    for rank in range(3):
        (folder / f"rank-{rank}").unlink()


def test_sixteen_gpus_are_refused_with_the_reason(rack):
    with pytest.raises(
        RequirementError, match=r"16 GPUs and .* in total, but the cluster can hold 12 of them. Its nodes: 3 ×"
    ):
        rack.executor.check_placeable(ComputeOptions(workers=16, gpus_per_worker=1, accelerator="A100"))


def test_a_trial_has_the_same_metrics_first_or_fifth_on_a_node_and_in_a_separate_process(rack):
    one = {"gpus_per_worker": 1, "cpus_per_worker": 1, "accelerator": "A100"}
    first, *_, fifth = [rack.run(f"one {number}", **one) for number in range(5)]
    rack.kill_actors()
    after_a_death = rack.run("one more", **one)
    run = rack.begin("alone")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", ALONE, str(run.path)], env=environment, check=True)
    assert first == fifth == after_a_death == rack.figures("alone")


def test_a_training_resumes_after_one_of_its_two_workers_has_aborted(rack):
    """As NCCL's watchdog aborts a worker. The other worker only notices that the connection is lost."""
    undisturbed = rack.run("no abort", **FOUR)
    while (running := rack.start("abort", **FOUR)[0]) is None:
        time.sleep(0.1)
    run = rack.directory("abort")
    while not list(run.checkpoints.glob("step-*")):
        assert running.outcome() is None
        time.sleep(0.02)
    workers = [process for process in psutil.process_iter() if _writes(process, run.path / "output.log")]
    assert len(workers) == 2
    max(workers, key=lambda process: process.pid).send_signal(signal.SIGABRT)
    rack.finish(running)
    assert rack.figures("abort") == undisturbed
    log = run.events.read_text()
    assert "retried from what it has saved (retry 1 of 3)" in log


def test_each_worker_answers_its_share_and_a_kill_loses_no_answer(rack):
    file = rack.folder / "answers.yaml"
    file.write_text(
        SPEC.replace("test: 4", "test: 40")
        .replace("max_new_tokens: 8", "max_new_tokens: 60")
        .replace("epochs: 3", "epochs: 1")
    )
    plan = resolve(load_spec(file).spec, Quiet())

    def start(name, **compute):
        run = rack.directory(name)
        run.create(plan, file.read_text(), [])
        while (running := rack.executor.start(plan.spec, run.path, ComputeOptions(**compute))) is None:
            time.sleep(0.1)
        return run, running

    alone, running = start("answers of one", cpus_per_worker=1)
    rack.finish(running)
    run, running = start("answers of two", **FOUR)
    shares = [run.unfinished_predictions(rank) for rank in range(2)]
    while not all(share.exists() and share.read_text().count("\n") for share in shares):
        assert running.outcome() is None
        time.sleep(0.01)
    answered = [[json.loads(line)["id"] for line in share.read_text().splitlines()[:-1]] for share in shares]
    workers = [process for process in psutil.process_iter() if _writes(process, run.path / "output.log")]
    assert len(workers) == 2
    workers[0].kill()
    rack.finish(running)
    predictions = [json.loads(line) for line in run.predictions.read_text().splitlines()]
    ids = [row["id"] for row in predictions]
    assert all(set(share) <= set(ids[rank::2]) for rank, share in enumerate(answered))
    assert len(ids) == 40
    assert run.predictions.read_text() == alone.predictions.read_text()
    assert "retried from what it has saved (retry 1 of 3)" in run.events.read_text()


def _writes(process: psutil.Process, file: Path) -> bool:
    """Whether the standard output of a process is a file."""
    try:
        return Path(f"/proc/{process.pid}/fd/1").resolve() == file.resolve()
    except OSError:
        return False


def test_a_killed_node_loses_no_finished_trial_and_its_running_one_gets_the_same_result(rack):
    undisturbed = rack.run("undisturbed", **FOUR)
    fillers = []
    while HEAD not in {place for nodes in rack.nodes_held() for place in nodes}:
        filler = rack.executor._pool.reserve(rack.executor._pool.request(ComputeOptions(**FOUR), 2))
        fillers += [filler] if filler else []
    for filler in fillers[:-1]:
        rack.executor._pool.release(filler)
    while (running := rack.start("disturbed", **FOUR)[0]) is None:
        time.sleep(0.1)
    checkpoints = rack.directory("disturbed").checkpoints
    while not list(checkpoints.glob("step-*")):
        assert running.outcome() is None
        time.sleep(0.05)
    [place] = rack.nodes_held()[-1]
    rack.cluster.kill(place)
    rack.finish(running)
    rack.executor._pool.release(fillers[-1])
    assert rack.figures("disturbed") == undisturbed
    assert rack.figures("undisturbed") == undisturbed
    log = rack.directory("disturbed").events.read_text()
    assert "retried from what it has saved (retry 1 of 3)" in log


def test_a_trial_that_needs_a_node_that_is_away_waits_until_it_is_back(rack):
    import ray

    everything = {"workers": 3, "gpus_per_worker": 4, "cpus_per_worker": 1, "accelerator": "A100"}
    compute = ComputeOptions(**everything)
    for place in {0, 1, 2} - {rack.place(node["NodeID"]) for node in ray.nodes() if node["Alive"]}:
        rack.cluster.restart(place)
    while len(rack.executor._pool.nodes()) < 3:
        time.sleep(0.1)
    rack.cluster.kill(2)
    while len(rack.executor._pool.nodes()) == 3:
        time.sleep(0.1)
    rack.executor.check_placeable(compute)
    assert rack.start("all nodes", **everything)[0] is None
    assert ", away for 0 min" in rack.executor.describe_wait(compute)
    rack.cluster.restart(2)
    while (running := rack.executor.start(rack.plan.spec, rack.directory("all nodes").path, compute)) is None:
        time.sleep(0.1)
    running.kill()


def test_the_doctor_asks_each_node(rack):
    file, storage = rack.folder / "asked.yaml", rack.folder / "asked"
    file.write_text(SPEC)
    command = [sys.executable, "-m", "runner", "doctor", file, "--address", rack.cluster.address, "--json"]
    settings = [f"compute.storage={storage}", "compute.gpus_per_worker=4", "compute.workers=3"]
    done = subprocess.run(
        [*command, *(part for setting in settings for part in ("--set", setting))],
        env=rack.cluster.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    findings = [each for each in json.loads(done.stdout)["findings"] if each["topic"] == "cluster"]
    texts = [finding["text"] for finding in findings]
    assert texts[0].startswith(f"3 node(s) answer at {rack.cluster.address}: ")
    assert texts[-1] == "each of the 3 nodes can connect to the others"
    assert {finding["level"] for finding in findings} == {"ok"}
    assert not list(rack.folder.glob(".runner-doctor-*"))
    command[-1:] = ["--set", "compute.gpus_per_worker=8"]
    done = subprocess.run(command, env=rack.cluster.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "PROBLEM cluster: " in done.stdout
