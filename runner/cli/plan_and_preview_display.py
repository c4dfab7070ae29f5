"""Displays what a spec would do: tables of its plan, and previewed samples as text, JSON lines or a page."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from runner.cli.console import PlainConsole
from runner.cli.printing import print_json, print_text
from runner.cli.progress import format_duration
from runner.preflight.preview import PreviewedImage, PreviewedSample, PromptSegment, write_page
from runner.preflight.resources import ASSUMED_WRITE_SPEED

MEMORY_PARTS = ("weights", "gradients", "optimizer", "activations", "logits", "total")
"""The parts of a worker's memory, in the order of the rows."""

UNKNOWN = "not known yet"
"""Shown instead of values that depend on missing data or a missing model."""


def plan_tables(description: Mapping[str, Any]) -> list[Table]:
    """Create the tables of a description by `describe_plan`; a part that is not known has no table."""
    tables = [_overview_table(description)]
    if description["sweep"]:
        tables.append(_sweep_table(description["sweep"]))
        tables += _training_length_tables(description["trials"], description["sweep"]["space"])
    if claims := description.get("claims"):
        tables.append(_claims_table(claims))
    if description["parameters"]:
        tables.append(_parameters_table(description["parameters"]))
    if description["memory"]:
        tables.append(_memory_table(description["memory"]))
    return tables


def _overview_table(description: Mapping[str, Any]) -> Table:
    table = Table(title="plan", title_justify="left", show_header=False)
    sweep = description["sweep"]
    if sweep is None:
        num_trials = _format_count(len(description["trials"]))
    elif sweep["num_trials"] is None:
        num_trials = "limited only by the time budget"
    else:
        num_trials = f"at most {sweep['num_trials']:,}"
    rows = {
        "fingerprint": (description["fingerprint"] or UNKNOWN)[:16],
        "trials": num_trials,
        "samples": ", ".join(f"{split} {number:,}" for split, number in description["num_samples"].items()),
        "steps per trial": _format_count(description["steps_per_trial"]),
        **_token_rows(description["tokens"]),
        **_cost_rows(description),
        "where": description["where"],
    }
    for name, value in rows.items():
        table.add_row(name, value or UNKNOWN)
    return table


def _sweep_table(sweep: Mapping[str, Any]) -> Table:
    """One row per path of the search space and per arm, then seeds, search, pruning, objective and budget."""
    table = Table(title="sweep; the other tables describe the spec without it", title_justify="left", show_header=False)
    for path, values in sweep["space"].items():
        table.add_row(path, values)
    for arm, values in sweep["arms"].items():
        table.add_row(f"arm {arm}", ", ".join(f"{path} = {value}" for path, value in values.items()) or "unchanged")
    rows = {
        "seeds": ", ".join(map(str, sweep["seeds"] or ())),
        "search": _format_options(sweep["search"]) if sweep["space"] else "",
        "pruning": _format_options(sweep["pruning"]),
        "objective": _format_options(sweep["objective"]),
        "budget": _format_options(sweep["budget"]),
        "GPU hours": "" if sweep["gpu_hours"] is None else f"at most {sweep['gpu_hours']:,.0f} (without pruning)",
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, value)
    return table


def _training_length_tables(trials: Sequence[Mapping[str, Any]], space: Collection[str]) -> list[Table]:
    """One row per group, if groups differ in length or in what they learn from.

    Seeds of a group can differ in the samples of the last step.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for trial in trials:
        groups.setdefault(trial["group"], []).append(trial)
    lengths = {
        (_format_range(members, "steps"), _format_range(members, "trained_tokens"), members[0]["learns_from"])
        for members in groups.values()
    }
    if len(lengths) < 2:
        return []
    table = Table(title="what each arm learns from", title_justify="left")
    for column in ("arm", *space, "trials", "steps", "trained tokens", "learns from"):
        table.add_column(column, justify="right" if column in {"trials", "steps", "trained tokens"} else "left")
    for members in groups.values():
        first = members[0]
        values = (str(first["parameters"].get(path, "")) for path in space)
        ranges = (_format_range(members, name) for name in ("steps", "trained_tokens"))
        table.add_row(first["arm"], *values, _format_count(len(members)), *ranges, first["learns_from"])
    return [table]


def _claims_table(claims: Sequence[Mapping[str, Any]]) -> Table:
    """One row per claim, then one for the criterion: what is claimed, and when it was registered."""
    table = Table(title="claims", title_justify="left")
    for heading in ("name", "claim", "registered"):
        table.add_column(heading, overflow="fold")
    for claim in claims:
        table.add_row(claim["name"], claim["statement"], claim["standing"])
    return table


def _format_range(trials: Sequence[Mapping[str, Any]], name: str) -> str:
    """Minimum and maximum of a value over trials; one number if they are equal."""
    values = [trial[name] for trial in trials if trial[name] is not None]
    return " – ".join(_format_count(value) for value in sorted({min(values), max(values)})) if values else UNKNOWN


def _format_options(options: Mapping[str, Any] | None) -> str:
    """Options in one line: the type or metric, then the other options that are set."""
    options_set = {name: value for name, value in (options or {}).items() if value is not None}
    first = [str(options_set.pop(name)) for name in ("type", "metric") if name in options_set]
    return ", ".join([*first, *(f"{name} {value}" for name, value in options_set.items())])


def _token_rows(tokens: Mapping[str, Any]) -> dict[str, str]:
    counts = {name: value for name, value in tokens.items() if not isinstance(value, bool) and value is not None}
    rows = {f"tokens: {name.replace('_', ' ')}": _format_count(value) for name, value in counts.items()}
    if tokens.get("assumed"):
        rows["tokens"] = "assumed, since there is no data to count"
    elif tokens.get("estimated"):
        rows["tokens"] = "text estimated from the number of characters, images counted"
    return rows


def _cost_rows(description: Mapping[str, Any]) -> dict[str, str]:
    rows = {}
    if disk := description["disk"]:
        rows["disk"] = f"{_format_gigabytes(disk['total'])} GB: {_format_disk(disk)}"
        if disk.get("written") is not None:
            rows["written to disk"] = _format_written(disk)
    if host := description["host_memory"]:
        rows["main memory"] = _format_host_memory(host)
    if hours := description["hours"]:
        rows |= _hour_rows(hours, description["faster"])
    return rows


def _format_host_memory(host: Mapping[str, Any]) -> str:
    """Describe the peaks of a machine with all workers, and the option that reserves this memory."""
    total, *peaks = (_format_gigabytes(host[name]) for name in ("total", "load", "training", "save"))
    copy = f" (a copy of a checkpoint has {_format_gigabytes(host['checkpoint'])})" if host["checkpoint"] else ""
    line = f"{total} GB for all workers: load {peaks[0]}, training {peaks[1]}{copy}, save {peaks[2]}"
    return f"{line}; {host['advice']}" if host["advice"] else line


def _format_written(disk: Mapping[str, Any]) -> str:
    duration = format_duration(disk["write_minutes"] * 60)
    speed = f"{_format_gigabytes(ASSUMED_WRITE_SPEED)} GB/s"
    return (
        f"{_format_gigabytes(disk['written'])} GB in the whole trial, with {disk['checkpoints_written']} checkpoints; "
        f"takes {duration} at an assumed {speed}"
    )


def _hour_rows(hours: Mapping[str, Any], faster: Mapping[str, Any] | None) -> dict[str, str]:
    """Rows about the time of a trial, with the values for each interconnect in the same order."""
    interconnects = hours["interconnects"]
    step = _per_interconnect({name: f"{each['seconds_per_step']:.2f}" for name, each in interconnects.items()})
    rows = {"seconds per step": f"{step}, at {hours['share_of_peak']:.0%} of the {hours['accelerator']}'s peak"}
    if hours["exchanged_per_step"]:
        rows["exchange per step"] = f"each GPU sends and receives {_format_gigabytes(hours['exchanged_per_step'])} GB"
    if faster:
        seconds = _per_interconnect({name: f"{each:.2f}" for name, each in faster["seconds_per_step"].items()})
        memory = f"{_format_gigabytes(faster['total'])} GB of memory"
        rows["faster"] = f"{faster['change']}: {seconds} seconds per step, and {memory}"
    if hours["gpu"] is None:
        return rows
    training, total = (
        _per_interconnect({name: format_duration(each[part] * 3600) for name, each in interconnects.items()})
        for part in ("training", "total")
    )
    besides = [
        f"{name} {format_duration(hours[name] * 3600)}" for name in ("answers", "loading") if hours[name] is not None
    ]
    rows["time of a trial"] = f"{total}: training {training}, {', '.join(besides)}"
    rows["GPU hours"] = _per_interconnect({name: f"{each['gpu']:.1f}" for name, each in interconnects.items()})
    return rows


def _per_interconnect(values: Mapping[str, str]) -> str:
    return ", ".join(f"{value} ({name})" if name else value for name, value in values.items())


def _format_disk(disk: Mapping[str, Any]) -> str:
    encoded = disk["encoded_samples"]
    checkpoints = f"{disk['num_checkpoints']} checkpoints of {_format_gigabytes(disk['checkpoint'])}"
    if encoded:
        return f"{checkpoints}, the model, and {_format_gigabytes(encoded)} of encoded training samples"
    return f"{checkpoints} and the model" + (", without encoded samples" if encoded is None else "")


def _parameters_table(groups: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="parameters", title_justify="left")
    for column in ("group", "parameters", "trainable", "lr", "weight decay"):
        table.add_column(column, justify="left" if column == "group" else "right")
    for group in groups:
        rates = ("–" if group[name] is None else f"{group[name]:g}" for name in ("lr", "weight_decay"))
        table.add_row(
            group["group"], _format_count(group["num_parameters"]), _format_count(group["num_trainable"]), *rates
        )
    return table


LITTLE_MEMORY = 1e9
"""Bytes up to which the plan names no settings that need less memory."""


def _memory_table(memory: Mapping[str, Any]) -> Table:
    """One column for the spec and one for each variant that needs less memory; the caption explains the variants.

    No machine needs variants of a spec that needs as little memory as `LITTLE_MEMORY`.
    """
    title = "peak memory of a worker in GB"
    table = Table(title=title, title_justify="left", caption_justify="left", min_width=len(title))
    ways = memory["ways"] if memory["total"] > LITTLE_MEMORY else []
    variants = [memory, *ways]
    table.add_column("")
    for number in range(len(variants)):
        table.add_column(f"({number})" if number else "this spec", justify="right")
    table.add_row("peak at", *(variant["moment"] for variant in variants))
    for part in MEMORY_PARTS:
        table.add_row(part, *(_format_gigabytes(variant[part]) for variant in variants))
    if memory["limit"] is not None:
        fits = ("yes" if variant["fits"] else "no" for variant in variants)
        table.add_row(f"fits into {_format_gigabytes(memory['limit'])}", *fits)
    table.caption = "\n".join(f"({number}) {way['change']}" for number, way in enumerate(ways, 1)) or None
    return table


def _format_gigabytes(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:,.1f}" if num_bytes >= 5e7 or not num_bytes else f"{num_bytes / 1e9:.3f}"


def _format_count(value: float | None) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


TRAINED_STYLES = ("black on green", "black on bright_green")
"""Styles of tokens with loss; they alternate, so that the boundaries are visible."""

STYLES = {"text": "", "special": "magenta", "image": "cyan"}
"""Styles of segments without loss."""


class ProblemCounter:
    """Passes samples through and counts those with a problem."""

    def __init__(self, samples: Iterator[PreviewedSample]) -> None:
        """Wrap an iterator of samples."""
        self._samples, self.num_samples, self.num_with_problems = samples, 0, 0

    def __iter__(self) -> Iterator[PreviewedSample]:
        """Yield the samples."""
        for sample in self._samples:
            self.num_samples += 1
            self.num_with_problems += bool(sample.problems)
            yield sample


def show_samples(samples: Iterator[PreviewedSample], *, html: Path | None, title: str, as_json: bool) -> int:
    """Print samples on standard output one by one, or write them to a page.

    Args:
        samples: The samples; they are iterated once.
        html: File of the page; None prints the samples.
        title: Title of the page.
        as_json: Print one JSON line per sample, also if a page is written.

    Returns:
        The number of samples with a problem.
    """
    counter = ProblemCounter(samples)
    if html is not None:
        write_page(html, title, _print_json(counter) if as_json else iter(counter))
    elif as_json:
        for _ in _print_json(counter):
            pass
    else:
        _print_samples(counter)
    if not as_json:
        print_text(f"{f'{html}: ' if html else ''}{_summary(counter)}")
    return counter.num_with_problems


def _print_json(samples: ProblemCounter) -> Iterator[PreviewedSample]:
    for sample in samples:
        print_json(sample.as_json(), flush=True)
        yield sample


def _print_samples(samples: ProblemCounter) -> None:
    console = PlainConsole()
    for sample in samples:
        console.print(Rule(f"sample {sample.id}", align="left", style="dim"))
        for line in sample_lines(sample):
            console.print(line, soft_wrap=not console.is_terminal)


def _summary(counter: ProblemCounter) -> str:
    number = f"{counter.num_samples:,} sample{'s' if counter.num_samples != 1 else ''}"
    problems = f"{counter.num_with_problems:,} with a problem" if counter.num_with_problems else "no problem found"
    return f"{number}, {problems}"


def sample_lines(sample: PreviewedSample) -> list[Text]:
    """The lines of a sample: images, prompt and answer, trained text, lengths, problems."""
    lines = [Text(f"{number}. {_image_line(image)}", "cyan") for number, image in enumerate(sample.images, start=1)]
    lines.append(_styled_text(sample.segments))
    if sample.trained_text:
        lines.append(Text.assemble(("trained: ", "bold"), (repr(sample.trained_text), "green")))
    elif sample.target is not None:
        lines.append(Text.assemble(("reference answer, which the model does not see: ", "bold"), sample.target))
    lines.append(Text(length_line(sample), "dim"))
    lines += [Text(f"problem: {problem}", "red") for problem in sample.problems]
    return lines if sample.problems else [*lines, Text("no problem found", "dim")]


def _image_line(image: PreviewedImage) -> str:
    size = f"{image.width} × {image.height}" if image.width else "cannot be read"
    tokens = "" if image.num_tokens is None else f", {image.num_tokens:,} token{'s' * (image.num_tokens != 1)}"
    return f"{image.name}: {image.path} ({size}{tokens})"


def _styled_text(segments: tuple[PromptSegment, ...]) -> Text:
    text, num_trained = Text(), 0
    for segment in segments:
        text.append(segment.text, TRAINED_STYLES[num_trained % 2] if segment.trained else STYLES[segment.kind])
        num_trained += segment.trained
    return text


def length_line(sample: PreviewedSample) -> str:
    """Describe the lengths: `412 tokens: text 120, images 256, trained 36; 1.3 % of 32,768`."""
    lengths = sample.lengths
    share = "" if lengths["share"] is None else f"; {lengths['share']:.1%} of {lengths['limit']:,}"
    note = "; the answer is truncated" if sample.truncated else ""
    note = "; too long, skipped in training" if sample.skipped else note
    kinds = f"text {lengths['text']:,}, images {lengths['image']:,}, trained {lengths['target']:,}"
    return f"{lengths['total']:,} tokens: {kinds}{share}{note}"
