"""A launch without Ray, torch or MLflow: an executor and a tracker that a test controls."""

import json
import signal
from pathlib import Path

import pytest

from runner.execute.launch_context import LaunchContext
from runner.execute.loop import LaunchLoop
from runner.files import write_json
from runner.resolved_plan import Trial, resolve
from runner.signals import STOP_SIGNALS, StopSignals
from runner.spec.load import load_spec
from runner.sweep.sweep_folder import SweepFolder
from runner.trial.run_directory_and_events import EventLog, RunDirectory
from runner.trial.run_trial import Outcome

SPEC = """\
name: many
data: {type: synthetic, path: data, train: 2, test: 2}
adapter: {type: pfa, tasks: [ner]}
model: none
trainer: none
generator: {type: constant}
metrics: [{type: ner_f1}]
tracker: {type: mlflow}
"""


class Silent:
    def progress(self, done, total, **shown): ...

    def warn(self, message): ...


class RecordingTracker:
    """A tracker that records what it receives, and can be made unreachable."""

    def __init__(self):
        self.started, self.logged, self.ended, self.is_down, self.states = {}, [], {}, False, {}

    def of(self, run):
        return _TrackerRun(self, run)

    def metrics(self, trial, name):
        return [
            value
            for name_of_trial, values in self.logged
            if name_of_trial == trial
            for key, value in values
            if key == name
        ]


class _TrackerRun:
    def __init__(self, recorder, name=None):
        self._recorder, self._trial = recorder, name

    def _answer(self):
        if self._recorder.is_down:
            raise ConnectionError("nobody there")

    def start(self, run):
        self._answer()
        self._trial = run.trial
        self._recorder.started[run.trial] = run
        return f"id of {run.trial}"

    def find_run(self, run_id):
        self._answer()
        return self._recorder.states.get(run_id, "present")

    def log_events(self, events):
        self._answer()
        values = [item for event in events if event["kind"] == "metrics" for item in event["values"].items()]
        self._recorder.logged.append((self._trial, values))

    def finish(self, status):
        self._answer()
        self._recorder.ended[self._trial] = status

    def link(self):
        return "link"


class ScriptedTrial:
    """A trial that takes one step of its script at each poll, until the script ends or it is asked to stop."""

    def __init__(self, folder, script, ignores_stop):
        self.run, self.was_killed, self._ignores_stop = RunDirectory(folder), False, ignores_stop
        self._log, self._script = EventLog(self.run.events), iter(script)

    def outcome(self):
        if self.run.stop_request.exists() and not self._ignores_stop:
            return Outcome("interrupted")
        for entry in self._script:
            if isinstance(entry, Exception):
                return Outcome("failed", entry)
            self._log.metrics(entry[0], {"validation/loss": entry[1]})
            return None
        write_json(self.run.metrics, {"ner_f1": 0.5})
        self.run.update_record(steps={"score": {"status": "finished"}})
        return Outcome("finished")

    def kill(self):
        self.was_killed = True


class ScriptedExecutor:
    """Runs at most `capacity` trials; a function of the plan gives the script of each."""

    def __init__(self, capacity, script, ignores_stop=False):
        self.capacity, self._script, self._ignores_stop = capacity, script, ignores_stop
        self.started, self.max_running, self.closed = [], 0, False

    def check_placeable(self, compute): ...

    def start(self, spec, folder, compute):
        running_trials = [trial for trial in self.started if trial.run.read_record().get("status") == "running"]
        if len(running_trials) >= self.capacity:
            return None
        running = ScriptedTrial(folder, self._script(spec), self._ignores_stop)
        self.started.append(running)
        self.max_running = max(self.max_running, len(running_trials) + 1)
        return running

    def describe_wait(self, compute):
        return "a place"

    def close(self):
        self.closed = True


class Listener:
    def __init__(self):
        self.started, self.waited, self.ended, self.warnings, self.num_stops = [], [], [], [], 0
        self.on_start = self.on_stopping = lambda: None

    def trial_started(self, trial, folder, start):
        self.started.append((trial.name, start))
        self.on_start()

    def trial_waiting(self, trial, reason):
        self.waited.append((trial.name, reason))

    def event(self, trial, event): ...

    def trial_ended(self, result):
        self.ended.append(result)

    def search_updated(self, summary): ...

    def progress(self, done, total, **shown): ...

    def warn(self, message):
        self.warnings.append(message)

    def stopping(self):
        self.num_stops += 1
        self.on_stopping()


class Launcher:
    """Launches an experiment with several seeds in its folder, any number of times."""

    def __init__(self, folder: Path, monkeypatch):
        (folder / "many.yaml").write_text(SPEC)
        self.folder, self.tracker = folder, RecordingTracker()
        self.loaded = load_spec(folder / "many.yaml")
        self.plan = resolve(self.loaded.spec, Silent())
        monkeypatch.setattr(LaunchContext, "_tracker", lambda experiment: self.tracker.of(None))

    def trials(self, *seeds):
        trials = []
        for seed in seeds:
            plan = resolve(self.loaded.spec.model_copy(update={"seed": seed}), Silent())
            trials.append(Trial(f"trial-{seed}", plan, {"seed": seed}, "all"))
        return trials

    def launch(self, source, scripts, *, has_pruning=False, listener=None, ignores_stop=False, rerun=None):
        experiment = LaunchContext(self.loaded, self.plan, self.folder / "runs", (), from_scratch=False, rerun=rerun)
        folder = SweepFolder(self.folder / "runs" / "many" / "sweep", self.plan)
        executor, listener = (
            ScriptedExecutor(2, lambda plan: scripts.get(plan.seed, [(1, 1.0)]), ignores_stop),
            listener or Listener(),
        )
        with folder.locked():
            experiment.begin_sweep(folder, {"metric": "validation/loss", "mode": "min"}, has_pruning=has_pruning)
            loop = LaunchLoop(source, experiment, lambda: executor, listener, StopSignals())
            loop.run()
            folder.end("finished")
            loop.uploader.finish(experiment.sweep_sync, "finished")
            results = loop.close()
        return {result.trial.name: result for result in results}, executor, listener

    def sweep(self):
        sweep = json.loads((self.folder / "runs" / "many" / "sweep" / "sweep.json").read_text())
        return {trial["name"]: trial for trial in sweep["trials"]}


@pytest.fixture
def launcher(tmp_path, monkeypatch):
    """Launches an experiment with a recording tracker, without Ray; restores the signal handlers afterwards."""
    before = {number: signal.getsignal(number) for number in (*STOP_SIGNALS, signal.SIGALRM)}
    yield Launcher(tmp_path, monkeypatch)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def listener():
    """The listener of a launch."""
    return Listener()


@pytest.fixture
def make_listener():
    """Creates listeners of a launch."""
    return Listener


@pytest.fixture
def scripted_executor():
    """Creates an executor for two trials at a time, with a script for each plan."""
    return lambda script: ScriptedExecutor(2, script)
