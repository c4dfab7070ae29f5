"""The pinned packages can be installed with every Python that pyproject.toml allows."""

import tomllib
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet


@pytest.fixture(scope="module")
def pinned(project):
    lines = (project.folder / "constraints.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]


def test_pinned_packages_accept_the_first_release_of_the_oldest_python(project, pinned):
    """Debian 12 has Python 3.11.2; pip ends with `ResolutionImpossible` if one pinned package wants a later one."""
    allowed = tomllib.loads((project.folder / "pyproject.toml").read_text())["project"]["requires-python"]
    oldest = f"{allowed.removeprefix('>=')}.0"
    found = {}
    for requirement in pinned:
        try:
            found[requirement.name] = metadata.metadata(requirement.name).get("Requires-Python") or ""
        except metadata.PackageNotFoundError:  # of an extra that is not installed here
            continue
    assert len(found) > 100
    assert not {name: wanted for name, wanted in found.items() if not SpecifierSet(wanted).contains(oldest)}
