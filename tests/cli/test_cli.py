"""The command line as a whole: interrupts, help, version, completion, and `init`."""

import errno
import importlib.metadata
import io
import json
import os
import subprocess
import sys
from zipfile import ZipFile

import pytest
import typer
from hatchling.builders.wheel import WheelBuilder
from hypothesis import given
from hypothesis import strategies as st

from runner.cli.app import COMMANDS
from runner.cli.main import _escape_unencodable, app
from runner.execute import slurm
from runner.execute.slurm import script_without_resources
from runner.spec import starter_and_shipped_specs as starter
from runner.spec.starter_and_shipped_specs import copy_shipped_spec, shipped_specs
from tests.command import run_in_process
from tests.conftest import ROOT, Workplace

COMMAND = """
import os, signal, sys, time, weakref
from runner.cli.main import app, main

class Thing:
    pass

def interrupted(reference):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)

@app.command()
def noted():
    thing = Thing()
    reference = weakref.ref(thing, interrupted)
    del thing
    time.sleep(60)
    print("waited")

@app.command()
def dropped():
    try:
        interrupted(None)
    except BaseException:
        pass
    time.sleep(60)
    print("waited")

@app.command()
def terminated():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
    print("waited")

@app.command()
def hung_up():
    os.kill(os.getpid(), signal.SIGHUP)
    time.sleep(0.5)
    print("went on")

@app.command()
def cleaning():
    try:
        interrupted(None)
    finally:
        time.sleep(2)
        print("cleaned up")

main()
"""


@pytest.mark.usefixtures("terminal_that_can_be_lost")
@pytest.mark.parametrize(
    ("command", "printed"),
    [("noted", ""), ("dropped", ""), ("terminated", ""), ("hung-up", ""), ("cleaning", "cleaned up\n")],
)
def test_ctrl_c_interrupts_at_any_point_and_lets_clean_up_finish(command, printed):
    done = subprocess.run([sys.executable, "-c", COMMAND, command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (130, printed)
    assert done.stderr == "interrupted; run the same command again to resume\n"


def test_a_command_outlasts_its_terminal_under_nohup():
    words = ["nohup", sys.executable, "-c", COMMAND, "hung-up"]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "went on\n")


def command(folder, *arguments):
    return run_in_process(arguments, folder, {"PATH": "", "COLUMNS": "100"})


def panels(text):
    """The names of the panels of a help text, in order."""
    return [line.strip("╭─╮ ") for line in text.splitlines() if line.startswith("╭─")]


def test_without_arguments_the_help_is_printed_with_its_panels_in_order(tmp_path):
    done = command(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == command(tmp_path, "--help").stdout.strip()
    assert panels(done.stdout) == ["Options", "Set up", "Run", "Results", "Data sets", "Inspect"]


def test_the_order_of_the_help_does_not_depend_on_the_order_of_imports():
    group = typer.main.get_command(app)
    order = [name for names in COMMANDS.values() for name in names]
    group.commands = dict(sorted(group.commands.items()))
    assert group.list_commands(typer.Context(group)) == order
    for panel, names in COMMANDS.items():
        assert {group.commands[name].rich_help_panel for name in names} == {panel}


def test_every_command_and_option_has_a_help_text():
    for command in typer.main.get_command(app).commands.values():
        assert command.help and command.help.splitlines()[0].endswith("."), command.name
        assert not [option.name for option in command.params if not option.help], command.name


def test_the_version_is_that_of_the_distribution(tmp_path):
    assert command(tmp_path, "--version").stdout == f"mmre-runner {importlib.metadata.version('mmre-runner')}\n"


def test_the_package_can_be_run_as_a_module():
    done = subprocess.run([sys.executable, "-m", "runner", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("mmre-runner ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_the_commands(shell):
    words = {"bash": {"COMP_WORDS": "runner va", "COMP_CWORD": "1"}}.get(shell, {"_TYPER_COMPLETE_ARGS": "runner va"})
    environment = {"_RUNNER_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_FISH_ACTION": "get-args", **words}
    program = "from runner.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "validate" in done.stdout, done.stderr
    assert "launch" not in done.stdout


SHIPPED = sorted(path.stem for path in (ROOT / "specs").glob("*.yaml"))


def test_the_shipped_specs_are_listed_with_a_line_each(tmp_path):
    lines = command(tmp_path, "init", "--list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == SHIPPED
    assert all(len(line.split()) > 3 for line in lines)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("source", SHIPPED)
def test_a_copied_spec_is_valid_where_it_is_copied_to(source, tmp_path):
    done = command(tmp_path, "init", "--from", source, "mine")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("next: runner validate mine.yaml\n")
    checked = command(tmp_path, "validate", "mine.yaml")
    assert checked.returncode == 0, checked.stdout
    for path in tmp_path.glob("*.yaml"):
        text = path.read_text()
        assert "../" not in text
        assert (tmp_path / text.splitlines()[0].partition("$schema=")[2]).is_file()


def test_a_copied_spec_brings_the_specs_that_it_extends(tmp_path):
    assert command(tmp_path, "init", "--from", "qwen_mmre_sweep").returncode == 0
    assert {path.name for path in tmp_path.glob("*.yaml")} == {"qwen_mmre_sweep.yaml", "qwen_mmre.yaml"}
    again = command(tmp_path, "init", "--from", "qwen_mmre_sweep", "second")
    assert again.stdout.startswith("wrote second.yaml;"), "an unchanged base spec is used again"
    (tmp_path / "qwen_mmre.yaml").write_text("name: other\n")
    refused = command(tmp_path, "init", "--from", "qwen_mmre_sweep", "third")
    assert refused.returncode == 2
    assert "qwen_mmre.yaml exists already and differs" in refused.stderr
    assert not (tmp_path / "third.yaml").exists()


def test_an_unknown_shipped_spec_and_an_existing_file_are_refused(tmp_path):
    unknown = command(tmp_path, "init", "--from", "qwen_mmer")
    assert (unknown.returncode, "did you mean 'qwen_mmre'?" in unknown.stderr) == (2, True)
    (tmp_path / "mine.yaml").write_text("")
    existing = command(tmp_path, "init", "--from", "tiny_mmre", "mine")
    assert (existing.returncode, "mine.yaml exists already" in existing.stderr) == (2, True)
    for options in (("--from", "tiny_mmre"), ()):
        wrong = command(tmp_path, "init", *options, "not/a/name")
        assert (wrong.returncode, "is not a file name" in wrong.stderr) == (2, True)


def test_the_wheel_holds_the_shipped_specs_and_the_script_for_slurm(tmp_path, monkeypatch):
    [wheel] = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site", [name for name in archive.namelist() if name.startswith("runner/")])
    installed = tmp_path / "site" / "runner"
    monkeypatch.setattr(starter, "__file__", str(installed / "spec" / "starter.py"))
    assert list(shipped_specs()) == SHIPPED
    (tmp_path / "work").mkdir()
    assert copy_shipped_spec("tiny_gmner", None, tmp_path / "work")[1].name == "tiny_base.yaml"
    assert (installed / "shipped_specs" / "tiny_base.yaml").read_bytes() == (
        ROOT / "specs" / "tiny_base.yaml"
    ).read_bytes()
    in_checkout = script_without_resources()
    monkeypatch.setattr(slurm, "__file__", str(installed / "execute" / "slurm.py"))
    assert script_without_resources() == in_checkout
    assert (installed / "execute" / "slurm.sbatch").is_file()


def test_plan_announces_that_it_generates_a_data_set(tmp_path):
    assert command(tmp_path, "init", "first").returncode == 0
    arguments = ("plan", "first.yaml", "--set", "data.train=60", "--set", "data.test=20")
    first = command(tmp_path, *arguments)
    assert first.stderr.startswith("generating 80 samples in data/synthetic/"), first.stderr
    assert first.returncode == 0
    assert "generating" not in command(tmp_path, *arguments).stderr


@given(st.dictionaries(st.text(), st.text(st.characters(codec=None))))
def test_json_stays_json_in_an_encoding_that_lacks_its_characters(content):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
        _escape_unencodable()
        print(json.dumps(content, ensure_ascii=False), flush=True)
        written = sys.stdout.buffer.getvalue()
    assert json.loads(written) == content


def test_output_without_utf8_is_escaped(tmp_path):
    (tmp_path / "spec.yaml").write_text("name: x\nnaïve: 1\n", encoding="utf-8")
    done = Workplace(tmp_path, {**os.environ, "PYTHONIOENCODING": "ascii"}).run_in_subprocess("validate", "spec.yaml")
    assert "unknown key 'na\\u00efve'" in done.stdout


@pytest.mark.parametrize(
    ("error", "message", "status"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/x/runs"), "/x/runs: Permission denied; ask its owner", 2),
        (OSError(errno.EROFS, "Read-only file system", "/x/runs"), "/x/runs: Read-only file system; choose another", 2),
        (OSError(errno.ENOSPC, "No space left on device", "/x/f"), "/x/f: No space left on device; free some space", 2),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device; free some space", 2),
        (OSError(errno.ENAMETOOLONG, "File name too long", "/x/n"), "/x/n: File name too long; use shorter names", 2),
        (OSError(errno.ENOTDIR, "Not a directory", "/x/runs"), "/x/runs: Not a directory; a file is where a folder", 2),
        (OSError(errno.EBADF, "Bad file descriptor", "/x/runs"), "internal error", 1),
    ],
)
def test_errors_of_the_file_system_name_the_file_and_a_remedy(tmp_path, monkeypatch, error, message, status):
    def write_starter(*_arguments):
        raise error

    monkeypatch.setattr(starter, "write_starter", write_starter)
    done = run_in_process(["init", "x"], tmp_path, dict(os.environ))
    assert done.stderr.startswith(message)
    assert done.returncode == status
