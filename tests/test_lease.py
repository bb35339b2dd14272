"""One trainer at a time: leases that hold, run out, and are lost. On a folder, as a shared one or an object store would be."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from engine.errors import ArtefactError
from engine.registry import Registry
from export.lease import GRACE_S, HOLDS_S, NAME, Held, Lease


class Time:
    """A clock that is moved by sleeping."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_given_back(tmp_path: Path) -> None:
    """Rule: after a cycle the next trainer begins at once."""
    registry = Registry(str(tmp_path))
    for _ in range(2):
        with Lease(registry, wait_s=0, sleep=lambda _: None) as lease:
            lease.check()
    assert registry.read_mark(NAME) is None


def test_a_second_trainer_waits_then_says_who(tmp_path: Path) -> None:
    """Rule: while one trains, another waits, is told whom for, and gives up with an error that may be tried again."""
    registry, time = Registry(str(tmp_path)), Time()
    told: list[Held] = []
    with Lease(registry) as first:
        second = Lease(registry, wait_s=10, waiting=told.append, clock=lambda: time.now, sleep=time.sleep)
        with pytest.raises(ArtefactError) as caught, second:
            pass
        assert caught.value.code == "trainer_busy"
        assert caught.value.retryable
        assert [one.holder for one in told] == [first.holder]
        first.check()


def test_a_dead_trainer_s_lease_runs_out(tmp_path: Path) -> None:
    """Rule: what a killed trainer left is taken over after it has run out; the dead one, should it wake, may not publish."""
    registry, time = Registry(str(tmp_path)), Time()
    frozen = Lease(registry, clock=time.clock, sleep=time.sleep)
    assert frozen._try() is None  # noqa: SLF001 - as `with` does, but with nobody to renew it
    began = time.now
    with Lease(registry, clock=time.clock, sleep=time.sleep) as heir:
        assert HOLDS_S <= time.now - began <= HOLDS_S + GRACE_S + 2
        heir.check()
        with pytest.raises(ArtefactError) as caught:
            frozen.check()
        assert caught.value.code == "lease_lost"


def test_what_one_that_died_wrote_half_is_no_lease(tmp_path: Path) -> None:
    """Rule: bytes that are no lease keep nobody from training."""
    registry = Registry(str(tmp_path))
    for half in (b'{"holder":', b'{"holder":"\xff","until":1e9}'):
        registry.write_mark(NAME, half)
        with Lease(registry, wait_s=0) as lease:
            lease.check()


def test_of_many_at_once_one_has_it(tmp_path: Path) -> None:
    """Rule: however many begin at the same moment, never two are inside."""
    registry, inside, most, lock = Registry(str(tmp_path)), 0, 0, threading.Lock()
    errors: list[ArtefactError] = []

    def work() -> None:
        nonlocal inside, most
        try:
            with Lease(Registry(str(tmp_path)), wait_s=30) as lease:
                with lock:
                    inside += 1
                    most = max(most, inside)
                lease.check()
                with lock:
                    inside -= 1
        except ArtefactError as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert most == 1
    assert registry.read_mark(NAME) is None
