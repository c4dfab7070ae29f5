"""The tables of model types in the documentation."""

from __future__ import annotations

from collections.abc import Mapping

from plugins.model.tested_model_types import TypeResult

TABLE = "model types"
"""Name of the tables in the comments of docs/models.md."""


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
