"""Who may train: a lease in the registry, renewed while a cycle runs, so that no two trainers make the same generation; and a lock on the
work folder, so that no two registries' trainers remove each other's files. No training.

A lease is a small object beside the generations that names its holder and until when it holds. Taking one: nobody else's holds; write ours;
after a moment it still stands as ours. Object stores and shared folders can do no more; the clocks of trainers must agree to within
`GRACE_S`. What a trainer that was frozen past its lease finds is `Lease.check`, called last before it publishes.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from engine.errors import ArtefactError
from engine.registry import Registry

NAME = "trainer.lease"
HOLDS_S = 20.0
GRACE_S = 5.0
SETTLE_S = 0.2
"""Between writing a claim and looking whether it stands: what was written is listed at once (S3, GCS, Azure, file systems)."""


@contextmanager
def alone_in(work: Path) -> Iterator[None]:
    """Keep other cycles of this machine out of a folder while inside; a file beside it is locked, of which the system lets go if we die.

    Raises:
        ArtefactError: another cycle is in there.
    """
    work.parent.mkdir(parents=True, exist_ok=True)
    with work.with_name(f"{work.name}.lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            found, remedy = f"another cycle at work in {work}", "wait until it is done, or set HEADWATER_TRAIN_DIR to another folder"
            raise ArtefactError("train_dir_busy", found, "a folder of its own", remedy, retryable=True) from error
        yield


class Held(msgspec.Struct, frozen=True):
    """What stands in the lease. `until` in s."""

    holder: str
    until: float


class Lease:
    """The registry's one lease, as a context: taken inside, given back at the end.

    Args:
        registry: where it stands.
        wait_s: how long to wait for another's; a dead trainer's is over after `HOLDS_S` and `GRACE_S`.
        waiting: told who holds it, when it has to wait.
        clock: the wall clock, s.
        sleep: waits a number of seconds.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        wait_s: float = 3 * HOLDS_S,
        waiting: Callable[[Held], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._registry, self._wait_s, self._waiting, self._clock, self._sleep = registry, wait_s, waiting, clock, sleep
        self._over = threading.Event()
        self._renewing: threading.Thread | None = None

    def __enter__(self) -> Self:
        late = self._clock() + self._wait_s
        told = False
        while (other := self._try()) is not None:
            if self._clock() > late:
                expected = "no other trainer at work on this registry"
                raise ArtefactError("trainer_busy", f"{other.holder} trains", expected, "wait until it is done", retryable=True)
            if not told:
                self._waiting(other)
                told = True
            self._sleep(1.0)
        self._renewing = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._renewing.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        if self._renewing is not None:
            self._renewing.join()
        held = self._read()
        if held is not None and held.holder == self.holder:
            self._registry.remove_mark(NAME)

    def check(self) -> None:
        """Make sure that it is still ours.

        Raises:
            ArtefactError: another trainer has taken over.
        """
        held = self._read()
        if held is None or held.holder != self.holder:
            found = f"{held.holder if held else 'nobody'} holds the lease"
            remedy = "nothing: the other trainer goes on. If it happens often, look why this one stood still"
            raise ArtefactError("lease_lost", found, self.holder, remedy, retryable=True)

    def _try(self) -> Held | None:
        """Take it; who holds it instead, None when it is ours."""
        held = self._read()
        if held is not None and held.holder != self.holder and held.until + GRACE_S > self._clock():
            return held
        self._write()
        self._sleep(SETTLE_S)
        held = self._read()
        return None if held is not None and held.holder == self.holder else held or Held("somebody", self._clock())

    def _renew(self) -> None:
        while not self._over.wait(HOLDS_S / 3):
            try:
                held = self._read()
                if held is None or held.holder != self.holder:
                    return  # `check` will say so
                self._write()
            except ArtefactError:
                continue  # the store may answer next time; else the lease runs out, and `check` says so

    def _read(self) -> Held | None:
        raw = self._registry.read_mark(NAME)
        try:
            return None if raw is None else msgspec.json.decode(raw, type=Held)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None  # half written by one that died

    def _write(self) -> None:
        self._registry.write_mark(NAME, msgspec.json.encode(Held(self.holder, self._clock() + HOLDS_S)))
