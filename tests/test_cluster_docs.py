"""The cluster documentation: scripts parse, and every command has the options that the page shows."""

import re
import shlex
import subprocess
import tomllib
import warnings
from itertools import takewhile

import typer

from runner.cli.main import app

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of Ray Serve, about pydantic
    from ray.scripts.scripts import cli as ray_cli

COMMAND = re.compile(r"(?:^|\s)(?P<line>(?:runner|ray) [a-z-]+\b.*)")
CONTINUED = re.compile(r"\\\n\s*")


def commands(text):
    """Yield the `runner` and `ray` commands of shell text as words; shell variables are not expanded."""
    # With a container, the image is between the command and its arguments.
    for line in CONTINUED.sub(" ", text).replace("ray mmre-runner ", "ray ").splitlines():
        match = COMMAND.search(line.partition(" #")[0])
        if match and not line.lstrip().startswith("#"):
            yield shlex.split(re.split(r"[|&;`]|2>", match["line"])[0])


def documented_commands(project):
    page = (project.folder / "docs" / "clusters.md").read_text()
    fenced = re.findall(r"^```\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    inline = re.findall(r"`((?:runner|ray) [^`]+)`", page)
    script = (project.folder / "docs" / "cluster" / "slurm.sbatch").read_text()
    return [words for text in (*fenced, *inline, script) for words in commands(text)]


def test_documented_options_exist(project):
    documented = documented_commands(project)
    roots = {"runner": typer.main.get_command(app), "ray": ray_cli}
    assert {tuple(words[:2]) for words in documented} >= {
        ("runner", "launch"),
        ("runner", "status"),
        ("runner", "logs"),
        ("runner", "stop"),
        ("ray", "start"),
        ("ray", "status"),
    }
    for words in documented:
        command = roots[words[0]].commands[words[1]]
        known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        # After `--` follow options of another program.
        own = takewhile(lambda word: word != "--", words[2:])
        options = {word.partition("=")[0] for word in own if word.startswith("-")}
        assert options <= known, words


def test_documented_ports_are_options_of_ray_start(project):
    page = (project.folder / "docs" / "clusters.md").read_text()
    known = {name for parameter in ray_cli.commands["start"].params for name in parameter.opts}
    named = set(re.findall(r"`(--[a-z-]+-port)`", page))
    assert len(named) > 5
    assert named <= known


def test_slurm_script_parses(project):
    script = project.folder / "docs" / "cluster" / "slurm.sbatch"
    subprocess.run(["bash", "-n", script], check=True)
    directives = [line.split()[1] for line in script.read_text().splitlines() if line.startswith("#SBATCH")]
    # Slurm reads them only above the first command.
    assert script.read_text().index("#SBATCH --output") < script.read_text().index("set -euo")
    assert "--signal=B:USR1@600" in directives
    assert "USR1" in re.findall(r"^trap .* (\w+)$", script.read_text(), flags=re.MULTILINE)


def copied_files(project):
    lines = (project.folder / "docs" / "cluster" / "Containerfile").read_text().splitlines()
    return [word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]]


def test_container_copies_existing_files(project):
    copied = copied_files(project)
    assert copied
    assert all((project.folder / name).exists() for name in copied)


def test_container_copies_all_that_the_package_is_built_from(project):
    settings = tomllib.loads((project.folder / "pyproject.toml").read_text())
    wheel = settings["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*wheel["packages"], *wheel["force-include"], settings["project"]["readme"]}
    assert len(wheel["force-include"]) >= 2
    assert needed <= set(copied_files(project))
    assert "gpu" in settings["project"]["optional-dependencies"]


def test_container_keeps_gpu_memory_in_segments_that_grow(project):
    lines = (project.folder / "docs" / "cluster" / "Containerfile").read_text().splitlines()
    [name, _, setting] = next(line for line in lines if "expandable_segments" in line).split()[1].partition("=")
    assert (name, setting) == ("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    assert "ARG EXTRAS=gpu" in lines
    # The last USER decides; root would own the files of the mounted folder.
    assert [line.split()[1] for line in lines if line.startswith("USER")] == ["runner"]
