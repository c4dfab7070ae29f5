"""A trial while a launch is at it."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass, field

from runner.artifacts import RunDirectory
from runner.execute.executor import Running
from runner.plan import Trial
from runner.tracking.feed import TrackerFeed


@dataclass
class LiveTrial:
    """A trial that runs, or waits for room.

    Attributes:
        trial: The trial.
        run: Its folder.
        feed: By which the tracker is served.
        held: Holds the folder's lock.
        resumed: An earlier launch has begun it.
        running: What runs it; None while it waits.
        pruned: The search asked for its end.
        asked_why: When it was last asked what it waits for, in seconds of the monotonic clock.
        last: The last value of each metric that a search may go by.
    """

    trial: Trial
    run: RunDirectory
    feed: TrackerFeed
    held: ExitStack
    resumed: bool
    running: Running | None = None
    pruned: bool = False
    asked_why: float = -math.inf
    last: dict[str, float] = field(default_factory=dict)
