"""The commands of a page are run again, and print what the page says."""

import pytest

from tests.conftest import ROOT
from tests.docs.transcript import is_printed, steps

MISTAKES = (ROOT / "docs" / "mistakes.md").read_text()
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text()
QUICK = ("runner init", "runner validate", "sed ")
SHORT = (*QUICK, "runner plan", "runner preview")


@pytest.mark.parametrize("page", [MISTAKES, TUTORIAL], ids=["mistakes", "tutorial"])
def test_what_a_spec_alone_tells(reader, page):
    assert sum(step.command.startswith(QUICK) for step in steps(page)) >= 2
    missed = reader.follow(page, lambda command: command.startswith(QUICK))
    assert not missed, "\n\n".join(missed)


@pytest.mark.slow
def test_plan_and_preview_of_the_tutorial(reader):
    """Its launches and the comparison of them take minutes of training, and are not run again."""
    missed = reader.follow(TUTORIAL, lambda command: command.startswith(SHORT))
    assert not missed, "\n\n".join(missed)


@pytest.mark.slow
def test_every_mistake_is_told_as_the_page_says(reader):
    missed = reader.follow(MISTAKES, lambda command: True)
    assert not missed, "\n\n".join(missed)


def test_a_page_that_shows_what_is_not_printed_is_found_out():
    assert is_printed("a … c\nd\n", "x\na b  c\nd\n")
    assert not is_printed("d\na\n", "a\nd\n")
    assert not is_printed("a\n", "ab\n")
