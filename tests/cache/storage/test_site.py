"""How often and after which pauses a site is asked again where the connection breaks."""

import time

import pytest

from msa.cache.storage import site
from msa.cache.storage.site import PATIENCE_S, PAUSE_S, TRIES, persistently


@pytest.fixture
def clock(monkeypatch):
    """A clock that only pauses and `clock.passes` move."""

    class Clock:
        now, pauses = 1000.0, []

        def wait(self, seconds):
            self.pauses = [*self.pauses, seconds]
            self.now += seconds

    made = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: made.now)
    return made


def failing(times, clock=None, takes_s=0.0):
    """What fails so often, then returns how often it was called."""
    calls = []

    def way():
        calls.append(1)
        if clock:
            clock.now += takes_s
        if len(calls) <= times:
            raise site.Unreachable(f"try {len(calls)} of many", fix="wait")
        return len(calls)

    return way


def test_each_pause_is_twice_as_long_as_the_one_before(clock):
    assert persistently(failing(TRIES - 1), clock.wait) == TRIES
    assert clock.pauses == [PAUSE_S * 2**n for n in range(TRIES - 1)]


def test_the_last_failure_is_raised_after_so_many_tries(clock):
    with pytest.raises(site.Unreachable, match=f"try {TRIES} of many"):
        persistently(failing(TRIES), clock.wait)
    assert len(clock.pauses) == TRIES - 1


def test_a_try_that_takes_longer_than_the_patience_is_the_last(clock):
    with pytest.raises(site.Unreachable, match="try 1 of many"):
        persistently(failing(9, clock, PATIENCE_S + 1), clock.wait)
    assert persistently(failing(1, clock, PATIENCE_S / 2 - PAUSE_S), clock.wait) == 2


def test_tries_that_bring_something_are_counted_anew(clock):
    brought = iter(range(0, 10**12, 10**9))
    way = failing(3 * TRIES, clock, takes_s=1.0)
    assert persistently(way, clock.wait, lambda: next(brought)) == 3 * TRIES + 1
    assert set(clock.pauses) == {PAUSE_S}


def test_another_error_is_raised_at_once(clock):
    def way():
        raise FileNotFoundError

    with pytest.raises(FileNotFoundError):
        persistently(way, clock.wait)
    assert clock.pauses == []
