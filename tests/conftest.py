"""Shared fixtures: the command as a user runs it, and a third-party plugin distribution."""

import gc
import os

# Imported modules and collected tests stay in memory. Scanning these million objects again and again would take half of
# the tests' time, so the garbage collector starts after the collection of the tests and ignores them.
gc.disable()

# Torch reads this on import. Threads that spin while waiting slow each other down on a few cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.command import SIGNALS, run_in_process

# The duration of an example depends on the machine, so tests do not check it.
untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
# Every run uses the same examples; --hypothesis-profile searching looks for new ones.
settings.register_profile("searching", untimed)
settings.register_profile("repeatable", untimed, derandomize=True)
settings.load_profile("repeatable")

# A shell that starts the tests in the background has them ignore Ctrl-C, which the commands of tests would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parent.parent
RUNNER = Path(sys.executable).parent / "runner"

EMOJI_SPEC = """\
name: emoji
seed: 1
data: {type: emoji, path: names.txt}
adapter: {type: pfa}
model: {type: qwen2_5_vl, size: smoke}
optimizer: {type: adamw, groups: {vision: {match: "*visual*", lr: 1e-3}, rest: {match: "*", lr: 1e-3}}}
trainer: {type: sft, epochs: 4, global_batch_size: 2, precision: fp32, save_steps: 2}
generator: {type: transformers, max_new_tokens: 16}
metrics: [{type: ner_f1}, {type: answer_length}, {type: rouge}]
tracker: {type: mlflow}
"""
NAMES = "Ada Lovelace\nAlan\nGrace Hopper\nKurt\nEmmy Noether\nDavid\nSofia\nHenri\n"


def pytest_collection_finish(session):
    """Exclude everything loaded so far from garbage collection, and turn the collector on."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def handled_signals():
    """Restore the handlers of signals: a command ignores them at its end, and later processes would inherit this."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in handlers.items():
        if handler is not None:  # one that was not installed from Python
            signal.signal(number, handler)


@pytest.fixture
def terminal_that_can_be_lost(handled_signals):
    """Let the process and its commands hear SIGHUP, also when `nohup` has started the tests."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@dataclass(frozen=True)
class Workplace:
    """A folder with an experiment, and the environment of its commands."""

    folder: Path
    environment: dict[str, str]

    def command(self, *arguments):
        return [str(RUNNER), *map(str, arguments)]

    def run(self, *arguments):
        """Run a command in this process; a launch on Ray gets its own process, as Ray starts only once per process."""
        on_ray = arguments[0] == "launch" and not {"--local", "--smoke"} & set(arguments)
        return (
            self.run_in_subprocess(*arguments) if on_ray else run_in_process(arguments, self.folder, self.environment)
        )

    def run_in_subprocess(self, *arguments, timeout=1800):
        """Run a command in its own process."""
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def start(self, *arguments):
        """Start a command in its own process group, as a shell does, so that Ctrl-C can reach the whole group."""
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


@pytest.fixture(scope="session")
def extension(tmp_path_factory):
    """A folder outside the project into which pip installs a third-party distribution."""
    target = tmp_path_factory.mktemp("site")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*install, "--target", target, ROOT / "tests" / "extension"], check=True)
    return target


@pytest.fixture
def workplace(tmp_path):
    """An empty folder."""
    return Workplace(tmp_path, {**os.environ, "COLUMNS": "200"})


@pytest.fixture(scope="session")
def project():
    """The folder of the project, in which the commands of the README run."""
    return Workplace(ROOT, dict(os.environ))


@pytest.fixture(scope="session")
def emoji_at(extension):
    """A function that creates a small experiment with the extension's data in a folder."""

    def emoji_at(folder):
        (folder / "names.txt").write_text(NAMES)
        (folder / "emoji.yaml").write_text(EMOJI_SPEC)
        return Workplace(folder, {**os.environ, "PYTHONPATH": str(extension), "COLUMNS": "200"})

    return emoji_at


@pytest.fixture
def emoji(tmp_path, emoji_at):
    """A folder with a small experiment on the extension's data."""
    return emoji_at(tmp_path)
