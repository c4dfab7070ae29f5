"""A launch without Ray, torch or MLflow: an executor and a tracker that do what a test tells them to."""

import json
import signal
from pathlib import Path

import pytest

from runner.execute.experiment import Experiment
from runner.execute.loop import Loop
from runner.files import write_json
from runner.plan import Trial, read_plan, resolve
from runner.signals import StopSignals
from runner.spec.load import load_spec
from runner.status.sweep_folder import SweepFolder
from runner.trial.events import EventLog
from runner.trial.run_directory import RunDirectory
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


class Recorder:
    """A tracker that writes down what it is told, and can be made to be away."""

    def __init__(self):
        self.started, self.told, self.ended, self.away = {}, [], {}, False

    def of(self, run):
        return _Of(self, run)

    def metrics(self, trial, name):
        return [value for told, values in self.told if told == trial for key, value in values if key == name]


class _Of:
    def __init__(self, recorder, name=None):
        self._recorder, self._trial = recorder, name

    def _answer(self):
        if self._recorder.away:
            raise ConnectionError("nobody there")

    def start(self, run):
        self._answer()
        self._trial = run.trial
        self._recorder.started[run.trial] = run
        return f"id of {run.trial}"

    def deliver(self, events):
        self._answer()
        values = [item for event in events if event["kind"] == "metrics" for item in event["values"].items()]
        self._recorder.told.append((self._trial, values))

    def finish(self, status):
        self._answer()
        self._recorder.ended[self._trial] = status

    def link(self):
        return "link"


class Running:
    """A trial that goes on, a look at it after the other, until its script is over or it is asked to stop."""

    def __init__(self, folder, script, deaf):
        self.run, self.ended_at_once, self._deaf = RunDirectory(folder), False, deaf
        self._log, self._script = EventLog(self.run.events), iter(script)

    def outcome(self):
        if self.run.stop_request.exists() and not self._deaf:
            return Outcome("interrupted")
        for told in self._script:
            if isinstance(told, Exception):
                return Outcome("failed", told)
            self._log.metrics(told[0], {"validation/loss": told[1]})
            return None
        write_json(self.run.metrics, {"ner_f1": 0.5})
        self.run.update_record(steps={"score": {"status": "finished"}})
        return Outcome("finished")

    def end(self):
        self.ended_at_once = True


class Executor:
    """Has room for so many trials; what each does is said by a function of its plan."""

    def __init__(self, room, script, deaf=False):
        self.room, self._script, self._deaf = room, script, deaf
        self.started, self.most, self.closed = [], 0, False

    def refuse_unplaceable(self, compute): ...

    def start(self, plan, folder, compute):
        live = [each for each in self.started if each.run.read_record().get("status") == "running"]
        if len(live) >= self.room:
            return None
        running = Running(folder, self._script(read_plan(plan)), self._deaf)
        self.started.append(running)
        self.most = max(self.most, len(live) + 1)
        return running

    def waits_for(self, compute):
        return "a place"

    def close(self):
        self.closed = True


class Listener:
    def __init__(self):
        self.started, self.waited, self.ended, self.warnings, self.stops = [], [], [], [], 0
        self.on_start = self.on_stopping = lambda: None

    def trial_started(self, trial, folder, *, resumed):
        self.started.append((trial.name, resumed))
        self.on_start()

    def trial_waits(self, trial, reason):
        self.waited.append((trial.name, reason))

    def event(self, trial, event): ...

    def trial_ended(self, result):
        self.ended.append(result)

    def searched(self, summary): ...

    def progress(self, done, total, **shown): ...

    def warn(self, message):
        self.warnings.append(message)

    def stopping(self):
        self.stops += 1
        self.on_stopping()


class Place:
    """A folder with an experiment of some seeds, launched again and again."""

    def __init__(self, folder: Path, monkeypatch):
        (folder / "many.yaml").write_text(SPEC)
        self.folder, self.tracker = folder, Recorder()
        self.loaded = load_spec(folder / "many.yaml")
        self.plan = resolve(self.loaded.spec, Silent())
        monkeypatch.setattr(Experiment, "_tracker", lambda experiment: self.tracker.of(None))

    def trials(self, *seeds):
        made = []
        for seed in seeds:
            plan = resolve(self.loaded.spec.model_copy(update={"seed": seed}), Silent())
            made.append(Trial(f"trial-{seed}", plan, {"seed": seed}, "all"))
        return made

    def launch(self, proposals, scripts, *, prunes=False, listener=None, deaf=False):
        experiment = Experiment(self.loaded, self.plan, self.folder / "runs", (), afresh=False)
        folder = SweepFolder(self.folder / "runs" / "many" / "sweep", self.plan)
        executor, listener = Executor(2, lambda plan: scripts.get(plan.seed, [(1, 1.0)]), deaf), listener or Listener()
        with folder.held():
            experiment.begin_sweep(folder, {"metric": "validation/loss", "mode": "min"}, prunes=prunes)
            loop = Loop(proposals, experiment, lambda: executor, listener, StopSignals())
            loop.run()
            folder.end("finished")
            loop.delivery.finish(experiment.sweep_feed, "finished")
            results = loop.close()
        return {result.trial.name: result for result in results}, executor, listener

    def sweep(self):
        told = json.loads((self.folder / "runs" / "many" / "sweep" / "sweep.json").read_text())
        return {trial["name"]: trial for trial in told["trials"]}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with an experiment, a tracker that remembers, and no Ray; Ctrl-C means afterwards what it meant."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}
    yield Place(tmp_path, monkeypatch)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def listener():
    """Who is shown a launch."""
    return Listener()


@pytest.fixture
def listener_of():
    """Makes who is shown a launch."""
    return Listener


@pytest.fixture
def scripted_executor():
    """Makes an executor with room for two trials, which do what a function of their plan says."""
    return lambda script: Executor(2, script)
