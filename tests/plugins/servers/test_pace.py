"""The rate limiter keeps requests and tokens per minute within the limits."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.servers.bounded_client import SECONDS_PER_MINUTE, RateLimiter


def starts(number, requests, tokens, each):
    """When requests of a number of tokens each may go, on a clock that sleeping moves."""

    async def run():
        loop = asyncio.get_running_loop()
        pace, clock, found = RateLimiter(requests, tokens, lambda: each), [0.0], []

        async def sleep(seconds):
            clock[0] += seconds

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "time", lambda: clock[0])
            patch.setattr(asyncio, "sleep", sleep)
            for _ in range(number):
                await pace.wait()
                found.append(clock[0])
        return found

    return asyncio.run(run())


@given(
    st.integers(1, 60),
    st.one_of(st.none(), st.floats(0.5, 600)),
    st.one_of(st.none(), st.floats(100, 1e6)),
    st.floats(1, 2000),
)
def test_no_minute_exceeds_the_limits(number, requests, tokens, each):
    found = starts(number, requests, tokens, each)
    for place, start in enumerate(found):
        within = sum(start <= other < start + SECONDS_PER_MINUTE - 1e-6 for other in found[place:])
        # One request may always go, however many tokens it takes.
        assert requests is None or within <= requests + 1
        assert tokens is None or (within - 1) * each <= tokens * (1 + 1e-9)


def test_without_limits_requests_do_not_wait():
    assert starts(50, None, None, 1000) == [0.0] * 50


def test_stricter_limit_applies():
    assert starts(3, 60, 600, 5) == pytest.approx([0, 1, 2])
    assert starts(3, 60, 600, 50) == pytest.approx([0, 5, 10])
