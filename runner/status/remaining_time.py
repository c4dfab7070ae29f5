"""Estimates how long a running step and its trial still take, from their events and from finished trials."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Any

from runner.trial.run_directory_and_events import STEPS, Event


@dataclass(frozen=True)
class TrialTime:
    """An estimate of the time until a trial ends.

    Attributes:
        seconds: Seconds from the last progress event on, over the steps whose duration is known.
        unknown_steps: Later steps whose duration is not known, because no trial of the experiment has finished them.
    """

    seconds: float
    unknown_steps: tuple[str, ...]


def event_time(event: Event) -> datetime:
    """Return the time of an event."""
    return datetime.fromisoformat(event["time"])


def since_last_start(events: Sequence[Event]) -> Sequence[Event]:
    """The events since the last start of a step; all of them if no start is among them."""
    starts = [index for index, event in enumerate(events) if event["kind"] == "state" and event["state"] == "started"]
    return events[starts[-1] :] if starts else events


def estimate_remaining(events: Sequence[Event], stage: str | None = None) -> float | None:
    """Estimate how long a step still takes.

    The rate is the mean over the progress events of that step since it started, or since its count began anew, as that
    of each validation does.

    Args:
        events: The events of the trial.
        stage: The step; by default the one that reported progress last.

    Returns:
        Seconds, from the last progress event of the step on. None if the step is complete, or if there are no two
        events of it with progress between them.
    """
    progress = [event for event in since_last_start(events) if event["kind"] == "progress"]
    progress = [event for event in progress if stage in {None, event["stage"]}]
    if not progress:
        return None
    last = progress[-1]
    first = last
    for event in reversed(progress):
        if event["stage"] == last["stage"]:
            if event["done"] > first["done"]:
                break
            first = event
    num_done, num_left = int(last["done"] - first["done"]), int(last["total"] - last["done"])
    if num_done <= 0 or num_left <= 0:
        return None
    return round((event_time(last) - event_time(first)).total_seconds() / num_done * num_left, 1)


def step_durations(records: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the median duration of each step in seconds, over the records of trials that ran the step to its end."""
    durations: dict[str, list[float]] = {}
    for record in records:
        for step, entry in record.get("steps", {}).items():
            seconds = entry.get("seconds")
            if entry.get("status") == "finished" and not entry.get("reused_from") and isinstance(seconds, int | float):
                durations.setdefault(step, []).append(float(seconds))
    return {step: median(seconds) for step, seconds in durations.items()}


def estimate_trial(events: Sequence[Event], durations: Mapping[str, float]) -> TrialTime | None:
    """Estimate how long a running trial still takes.

    The running step continues at its mean rate so far; that of a training includes its validations and checkpoints.
    Later steps take as long as in finished trials.

    Args:
        events: The events of the trial.
        durations: What `step_durations` returned for the trials of the experiment.

    Returns:
        The estimate; None if the trial is not in a step, or if the rate of the step is not known yet.
    """
    states = [event for event in events if event["kind"] == "state" and event["step"] in STEPS]
    if not states or states[-1]["state"] != "started":
        return None
    step = states[-1]["step"]
    remaining = estimate_remaining(events, step)
    if remaining is None:
        return None
    later = STEPS[STEPS.index(step) + 1 :]
    known = sum(durations.get(name, 0.0) for name in later)
    return TrialTime(round(remaining + known, 1), tuple(name for name in later if name not in durations))
