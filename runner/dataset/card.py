"""Writes a data set's card: what it holds, where it comes from, and the header that the Hugging Face hub reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from runner.dataset.statistics import SPREAD

CARD = "README.md"

SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}
"""How the hub sorts data sets by their number of samples, up to a million."""

MEASURED = {
    "characters of a summary": ("summary", "characters"),
    "words of a summary": ("summary", "words"),
    "characters of a text": ("text", "characters"),
    "words of a text": ("text", "words"),
    "entities of a sample": ("entities_per_sample",),
    "segments of a sample": ("segments_per_sample",),
}
"""What the card tells of `statistics`, and where it stands there."""


def card(description: Mapping[str, Any], files: Mapping[str, str] | None = None) -> str:
    """Write the card.

    Args:
        description: What `dataset.json` says.
        files: By split, the pattern of its Parquet files beside the card; None where the card stands in a data-set
            folder of JSON lines.
    """
    header = yaml.safe_dump(_header(description, files), sort_keys=False, allow_unicode=True)
    parts = [
        f"---\n{header}---",
        f"# {description['name']}",
        "Each sample is an image with its text, the entities that the text names, segments cut from the image, each "
        "of which shows one of them, and, where somebody wrote it, a summary of the image (mutual reinforcement in "
        "multimodal information extraction, arXiv 2504.17353).",
        _table(["split", "samples"], [[split, f"{number:,}"] for split, number in description["num_samples"].items()]),
        f"Labels: {', '.join(description['labels'])}.",
        *_figures(description.get("statistics") or {}),
        "## Where it comes from",
        *_origin(description),
        "## How it is used",
        _use(exported=files is not None),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _header(description: Mapping[str, Any], files: Mapping[str, str] | None) -> dict[str, Any]:
    total = sum(description["num_samples"].values())
    told: dict[str, Any] = {"pretty_name": description["name"]}
    if description.get("license"):
        told["license"] = description["license"]
    told["task_categories"] = ["image-text-to-text", "token-classification"]
    told["tags"] = ["multimodal-information-extraction", "m-mre"]
    told["size_categories"] = [next((name for size, name in SIZES.items() if total < size), "n>1M")]
    if files is not None:
        patterns = [{"split": split, "path": pattern} for split, pattern in files.items()]
        told["configs"] = [{"config_name": "default", "data_files": patterns}]
    return told


def _figures(statistics: Mapping[str, Any]) -> list[str]:
    rows = []
    for name, place in MEASURED.items():
        found: Any = statistics
        for key in place:
            found = found.get(key) if isinstance(found, Mapping) else None
        if found:
            rows.append([name, *(f"{found[figure]:,.6g}" for figure in SPREAD)])
    entities = statistics.get("entities") or {}
    told = ", ".join(f"{number:,} × {label}" for label, number in entities.items())
    return [_table(["", *SPREAD], rows) if rows else "", f"Entities: {told}." if told else ""]


def _origin(description: Mapping[str, Any]) -> list[str]:
    provenance = description.get("provenance") or {}
    license_ = description.get("license")
    told = yaml.safe_dump(dict(provenance), sort_keys=False, allow_unicode=True)
    return [
        f"Made by mmre-runner from: {provenance['source']}." if provenance.get("source") else "",
        f"Licence: {license_}." if license_ else "No licence is declared: the terms of its sources hold.",
        f"Fingerprint over its content: `{description['fingerprint']}`.",
        f"~~~yaml\n{told}~~~" if provenance else "",
    ]


def _use(*, exported: bool) -> str:
    if exported:
        return (
            "`datasets.load_dataset` reads it. `runner import` makes of it the folder that a spec's "
            "`data: {type: mmre, path: …}` names, with the same fingerprint."
        )
    return (
        "A spec names this folder: `data: {type: mmre, path: …}`. `runner stats` shows it in figures, and "
        "`runner export` writes it as Parquet for the Hugging Face hub."
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [heads, rule, *rows])
