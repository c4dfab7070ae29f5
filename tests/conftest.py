"""What many tests share: the command as a user runs it, and somebody else's plugin distribution."""

import gc
import os

# What is imported and collected stays; a collector that visits a million such objects again and again takes half of the
# tests' time. It is on again, with those left out, once the tests are found.
gc.disable()

# Read by torch when it is imported: threads that spin while they wait slow each other down on a few cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.command import run_here

# How long an example takes is the machine's business, and no test's.
untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
# A change is judged by the same examples as the one before it; --hypothesis-profile searching looks for others.
settings.register_profile("searching", untimed)
settings.register_profile("repeatable", untimed, derandomize=True)
settings.load_profile("repeatable")

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
    """Leave what is loaded by now to itself."""
    gc.freeze()
    gc.enable()


@dataclass(frozen=True)
class Workplace:
    """A folder with an experiment in it, and the environment its commands run in."""

    folder: Path
    environment: dict[str, str]

    def command(self, *arguments):
        return [str(RUNNER), *map(str, arguments)]

    def run(self, *arguments):
        """Run a command in this process; a launch on Ray is a process of its own, as Ray starts but once in one."""
        on_ray = arguments[0] == "launch" and not {"--local", "--smoke"} & set(arguments)
        return self.run_apart(*arguments) if on_ray else run_here(arguments, self.folder, self.environment)

    def run_apart(self, *arguments, timeout=1800):
        """Run a command in a process of its own, where it is the process that is tested."""
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
        """Start a command in a process group of its own, as a shell does, so that Ctrl-C can be sent to all of it."""
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
    """The folder that somebody else's distribution is installed into, by pip, apart from the project."""
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
    """The project's own folder, where the README's commands are run."""
    return Workplace(ROOT, dict(os.environ))


@pytest.fixture(scope="session")
def emoji_at(extension):
    """Makes a small experiment on the extension's data in a folder."""

    def emoji_at(folder):
        (folder / "names.txt").write_text(NAMES)
        (folder / "emoji.yaml").write_text(EMOJI_SPEC)
        return Workplace(folder, {**os.environ, "PYTHONPATH": str(extension), "COLUMNS": "200"})

    return emoji_at


@pytest.fixture
def emoji(tmp_path, emoji_at):
    """A folder with a small experiment on the extension's data."""
    return emoji_at(tmp_path)
