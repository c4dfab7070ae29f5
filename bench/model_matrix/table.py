"""Writes the table of model types into a page of the documentation, between two comments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from plugins.model.tested_model_types import TypeResult

BEGIN, END = "<!-- model types: begin -->", "<!-- model types: end -->"


def write_table(page: Path, results: Mapping[str, TypeResult], versions: Mapping[str, str]) -> None:
    """Replace the text between the two comments of a page.

    Raises:
        ValueError: The page does not have both comments.
    """
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page} lacks the comments {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n{table(results, versions)}{END}{after}", encoding="utf-8")


def table(results: Mapping[str, TypeResult], versions: Mapping[str, str]) -> str:
    """Return the tables of types that pass, that are refused, and that were not tried, in Markdown."""
    passes = {name: each for name, each in results.items() if each.result == "passes"}
    refused = {name: each for name, each in results.items() if each.result in ("refused", "fails")}
    untried = {name: each for name, each in results.items() if each.result == "not tried"}
    installed = ", ".join(f"{package} {version}" for package, version in versions.items())
    lines = [
        f"Tested with {installed}: {len(passes)} of {len(results)} types pass.",
        "",
        "| type that passes | plugin | needs |",
        "|---|---|---|",
        *(f"| `{name}` | `{each.plugin}` | {_cell(each.detail)} |" for name, each in passes.items()),
        "",
        "| refused type | why |",
        "|---|---|",
        *(f"| `{name}` | {_cell(each.detail)} |" for name, each in refused.items()),
        "",
        "| type that was not tried | why |",
        "|---|---|",
        *(f"| `{name}` | {_cell(each.detail)} |" for name, each in untried.items()),
    ]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
