"""Holds requests back so that a server's limits of requests and tokens a minute are kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

MINUTE = 60.0


class Pace:
    """Lets requests go one after the other, as far apart as both limits want it: evenly, so that no minute has more."""

    def __init__(self, requests: float | None, tokens: float | None, expected: Callable[[], float]) -> None:
        """Take the limits of a minute, None for no limit.

        Args:
            requests: Requests a minute.
            tokens: Tokens of question and answer a minute.
            expected: How many tokens the next request is likely to take.
        """
        self._requests, self._tokens, self._expected = requests, tokens, expected
        self._free = 0.0

    def gap(self) -> float:
        """Seconds from the start of the next request to that of the one after it."""
        by_requests = MINUTE / self._requests if self._requests else 0.0
        return max(by_requests, MINUTE * self._expected() / self._tokens if self._tokens else 0.0)

    async def turn(self) -> None:
        """Wait until a request may go."""
        now = asyncio.get_running_loop().time()
        start = max(now, self._free)
        self._free = start + self.gap()
        if start > now:
            await asyncio.sleep(start - now)
