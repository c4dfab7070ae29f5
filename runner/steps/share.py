"""Takes what a step makes from another trial of the same storage; else makes it, and keeps it for the next."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from runner.cache.claim import Claim, ClaimedError
from runner.cache.entry import DamagedError, Entry
from runner.stages import StopRequestedError
from runner.steps.context import TrialContext, main_process
from runner.steps.group import tell_group, told_to_make
from runner.steps.kept import KEPT, Kept, empty_folder

POLL_SECONDS = 0.5
"""How often one who waits looks."""

Action = Callable[[TrialContext], None]


def share(context: TrialContext, step: str, make: Action) -> dict[str, Any]:
    """Get a step's artifact into the run directory, by taking it or by making it.

    Whatever fails about the cache is warned of, and the step is run. Of a group of workers the main one decides.

    Args:
        context: The trial.
        step: The step.
        make: Runs it; called at most once.

    Returns:
        What the record says of it: `cache` (kind and key), and `reused_from`, the trial that made it; empty for a step
        that is not shared.

    Raises:
        StopRequestedError: The user asked to stop while another trial was waited for.
        RunnerError: As `make` raises.
    """
    kept = KEPT.get(step)
    if kept is None:
        make(context)
        return {}
    if not main_process():
        if told_to_make(context.run, step):
            make(context)
        return {}
    if context.run.afresh.exists():
        _tell(context, step, "bypassed", f"{kept.word}: made anew, and not kept for other trials")
        tell_group(context.run, step, make=True)
        make(context)
        return {}
    entry = context.cache.entry(kept.kind, kept.key(context.spec))
    return {"cache": f"{entry.kind}/{entry.key}", **_Sharing(context, step, kept, entry).get(make)}


def _tell(context: TrialContext, step: str, state: str, message: str, **more: str) -> None:
    context.log.append("cache", step=step, state=state, message=message, **more)


class _Sharing:
    """One trial's way to one artifact."""

    def __init__(self, context: TrialContext, step: str, kept: Kept, entry: Entry) -> None:
        self._context, self._step, self._kept, self._entry = context, step, kept, entry
        self._waits_for = ""
        self._told: set[str] = set()

    def get(self, make: Action) -> dict[str, Any]:
        """Take it, wait for who makes it, or make it."""
        claim = Claim(self._entry, self._context.run.name)
        self._fetch()
        while True:
            taken = self._taken()
            if taken is not None:
                return taken
            with ExitStack() as stack:
                try:
                    stack.enter_context(claim.held())
                except ClaimedError as error:
                    self._wait(str(error))
                    continue
                except OSError as error:
                    self._trouble(f"the cache cannot be written to: {error}")
                # Between the look and the claim another trial may have finished it.
                self._fetch()
                return self._taken() or self._made(make)

    def _made(self, make: Action) -> dict[str, Any]:
        tell_group(self._context.run, self._step, make=True)
        make(self._context)
        try:
            self._context.cache.publish(self._entry, self._kept.parts(self._context), self._context.run.name)
        except OSError as error:
            self._trouble(f"{self._kept.word} cannot be kept for other trials: {error}")
        return {"reused_from": None}

    def _taken(self) -> dict[str, Any] | None:
        """Take the entry up; None where there is none that could be taken."""
        folder = empty_folder(self._context.run)
        try:
            told = self._entry.take(folder)
            if told is None:
                return None
            maker = str(told["made_by"])
            own = maker == self._context.run.name  # a kill came between its end and its note
            if not own:
                message = f"{self._kept.word} reused from {maker} ({self._entry.name})"
                _tell(self._context, self._step, "reused", message, trial=maker)
            self._kept.take(self._context, folder, maker)
        except (DamagedError, OSError) as error:
            self._trouble(f"the cache holds what cannot be used: {error}; it is made again")
            self._remove()
            return None
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        tell_group(self._context.run, self._step, make=False)
        return {"reused_from": None if own else maker}

    def _fetch(self) -> None:
        try:
            self._context.cache.fetch(self._entry)
        except (DamagedError, OSError) as error:
            self._trouble(f"nothing was fetched from the shared cache: {error}")

    def _trouble(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            _tell(self._context, self._step, "trouble", message)

    def _remove(self) -> None:
        try:
            self._entry.remove()
        except OSError as error:
            self._trouble(f"nor can it be removed: {error}")

    def _wait(self, maker: str) -> None:
        """Wait a moment for another trial; say for whom, once.

        Raises:
            StopRequestedError: The user asked to stop.
        """
        if maker != self._waits_for:
            self._waits_for = maker
            _tell(self._context, self._step, "waiting", f"{self._kept.word}: waits for {maker}, which makes the same")
        if self._context.run.stop_request.exists():
            raise StopRequestedError
        time.sleep(POLL_SECONDS)
