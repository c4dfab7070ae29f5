"""Prints a plan: trials, steps, optimizer groups and memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rich.table import Table

PARTS = ("weights", "gradients", "optimizer", "activations", "logits", "total")
"""What the memory of a worker is split in, in the order of the columns."""


def plan_tables(told: Mapping[str, Any]) -> list[Table]:
    """Lay out what `describe_plan` tells; what is not known has no table."""
    tables = [_run(told)]
    if told["sweep"]:
        tables.append(_sweep(told["sweep"]))
        tables += _lengths(told["trials"], told["sweep"]["space"])
    if told["parameters"]:
        tables.append(_groups(told))
    if told["memory"]:
        tables.append(_memory(told["memory"]))
    return tables


def _run(told: Mapping[str, Any]) -> Table:
    table = Table(title="what would run", title_justify="left", show_header=False)
    rows = {
        "fingerprint": (told["fingerprint"] or "unknown yet")[:16],
        "trials": _trials(told),
        "samples": ", ".join(f"{split} {number:,}" for split, number in told["num_samples"].items()),
        "steps a trial": _count(told["steps_per_trial"]),
        **_tokens(told["tokens"]),
        **_costs(told),
        "where": told["where"],
    }
    for name, value in rows.items():
        table.add_row(name, value or "unknown yet")
    return table


def _trials(told: Mapping[str, Any]) -> str:
    sweep = told["sweep"]
    if sweep is None:
        return _count(len(told["trials"]))
    return "as many as the budget has time for" if sweep["num_trials"] is None else f"at most {sweep['num_trials']:,}"


def _sweep(sweep: Mapping[str, Any]) -> Table:
    """A row a path of the space and an arm; then how points are chosen and how often each is repeated."""
    table = Table(title="the sweep; figures here are of the spec without it", title_justify="left", show_header=False)
    for path, values in sweep["space"].items():
        table.add_row(path, values)
    for arm, values in sweep["arms"].items():
        table.add_row(f"arm {arm}", ", ".join(f"{path} = {value}" for path, value in values.items()) or "as it is")
    rows = {
        "seeds": ", ".join(map(str, sweep["seeds"] or ())),
        "search": _told(sweep["search"]) if sweep["space"] else "",
        "pruning": _told(sweep["pruning"]),
        "objective": _told(sweep["objective"]),
        "budget": _told(sweep["budget"]),
        "GPU hours": "" if sweep["gpu_hours"] is None else f"at most {sweep['gpu_hours']:,.0f}, were none pruned",
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, value)
    return table


def _lengths(trials: Sequence[Mapping[str, Any]], space: Collection[str]) -> list[Table]:
    """How long trainings last: a row a group, where trials differ in it. Seeds differ in the samples of a last step."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for trial in trials:
        groups.setdefault(trial["group"], []).append(trial)
    if len({_range(members, "steps") + _range(members, "trained_tokens") for members in groups.values()}) < 2:
        return []
    table = Table(title="how long the trials train", title_justify="left")
    for column in ("arm", *space, "trials", "steps", "trained tokens"):
        table.add_column(column, justify="right" if column in {"trials", "steps", "trained tokens"} else "left")
    for members in groups.values():
        first = members[0]
        drawn = (str(first["parameters"].get(path, "")) for path in space)
        lasts = (_range(members, name) for name in ("steps", "trained_tokens"))
        table.add_row(first["arm"], *drawn, _count(len(members)), *lasts)
    return [table]


def _range(trials: Sequence[Mapping[str, Any]], name: str) -> str:
    """The least and the most of a figure; the figure where they are one."""
    values = [trial[name] for trial in trials if trial[name] is not None]
    return " – ".join(_count(value) for value in sorted({min(values), max(values)})) if values else "unknown yet"


def _told(options: Mapping[str, Any] | None) -> str:
    """Options in words: the type, then what is set."""
    given = {name: value for name, value in (options or {}).items() if value is not None}
    first = [str(given.pop(name)) for name in ("type", "metric") if name in given]
    return ", ".join([*first, *(f"{name} {value}" for name, value in given.items())])


def _tokens(tokens: Mapping[str, Any]) -> dict[str, str]:
    figures = {name: value for name, value in tokens.items() if not isinstance(value, bool) and value is not None}
    rows = {f"tokens: {name.replace('_', ' ')}": _count(value) for name, value in figures.items()}
    if tokens.get("assumed"):
        rows["tokens"] = "assumed, as there is no data to count"
    elif tokens.get("estimated"):
        rows["tokens"] = "text estimated from its characters, images counted"
    return rows


def _costs(told: Mapping[str, Any]) -> dict[str, str]:
    rows = {}
    if disk := told["disk"]:
        each = f"{disk['num_checkpoints']} checkpoints of {_gigabytes(disk['checkpoint'])}"
        rows["disk"] = f"{_gigabytes(disk['total'])} GB: {each} and the model"
    if hours := told["hours"]:
        reckoned = f"at {hours['share_of_peak']:.0%} of the {hours['accelerator']}'s peak"
        rows["seconds a step"] = f"{hours['seconds_per_step']:.2f} {reckoned}"
        if hours["gpu"] is not None:
            rows["GPU hours"] = f"{hours['gpu']:.1f} (training takes {hours['training']:.1f} hours)"
    return rows


def _groups(told: Mapping[str, Any]) -> Table:
    table = Table(title="parameters", title_justify="left")
    for column in ("group", "parameters", "trainable", "lr", "weight decay"):
        table.add_column(column, justify="left" if column == "group" else "right")
    for row in told["parameters"]:
        rates = ("–" if row[name] is None else f"{row[name]:g}" for name in ("lr", "weight_decay"))
        table.add_row(row["group"], _count(row["num_parameters"]), _count(row["num_trainable"]), *rates)
    return table


def _memory(memory: Mapping[str, Any]) -> Table:
    """A column a way to train: as the spec has it, and what takes less, spelt out below."""
    table = Table(
        title="memory of a worker in GB, when a step needs most", title_justify="left", caption_justify="left"
    )
    ways = [memory, *memory["ways"]]
    table.add_column("")
    for number in range(len(ways)):
        table.add_column(f"({number})" if number else "as it is", justify="right")
    table.add_row("at the", *(way["moment"] for way in ways))
    for part in PARTS:
        table.add_row(part, *(_gigabytes(way[part]) for way in ways))
    if memory["limit"] is not None:
        table.add_row(f"within {_gigabytes(memory['limit'])}", *("yes" if way["fits"] else "no" for way in ways))
    table.caption_justify = "left"
    table.caption = "\n".join(f"({number}) {way['change']}" for number, way in enumerate(memory["ways"], 1)) or None
    return table


def _gigabytes(number: float) -> str:
    return f"{number / 1e9:,.1f}" if number >= 5e7 or not number else f"{number / 1e9:.3f}"


def _count(value: float | None) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"
