"""The trainer: begins a cycle when it is time, or when enough has happened, and tells how it goes. A cycle is a process of its own.

So that a cycle that dies, for want of memory say, is one failed cycle, and the gigabyte that torch takes is given back. The trainer itself
holds nothing: how far training has come stands with the active generation, and with what the cycle's work folder has.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, make_wsgi_app

from engine.errors import HeadwaterError
from engine.manifest import Manifest
from engine.registry import Registry
from export.cycle import Bulletin, Outcome
from export.feed import EVENTS, Feed

LOOK_S = 10.0
"""Between two looks at how much is new: a request to the broker."""
AGAIN_S = 60.0
"""After a failure, doubled with each further one."""
LONGEST_S = 3_600.0
STOP_S = 30.0
REQUEST_S = 10.0
"""How long a connection of the web may say nothing."""
log = logging.getLogger("headwater.trainer")


class Meters:
    """What the trainer measures, one attribute a metric."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.cycles = Counter("headwater_trainer_cycles", "Training cycles, by how they ended", ["verdict"], registry=registry)
        for verdict in ("accepted", "refused", "failed", "nothing"):
            self.cycles.labels(verdict)
        self.seconds = Gauge("headwater_trainer_cycle_seconds", "How long the last cycle took", registry=registry)
        self.new = Gauge("headwater_trainer_new_events", "Events since the last cycle, or since the active generation", registry=registry)
        self.ndcg = Gauge("headwater_trainer_ndcg", "NDCG@10 on the held-out events of the last cycle", ["of", "list"], registry=registry)
        self.success = Gauge("headwater_trainer_last_success_timestamp_seconds", "When a cycle last ended well", registry=registry)
        self.memory = Gauge("headwater_trainer_cycle_peak_bytes", "Most memory that the last cycle took", registry=registry)
        self.running = Gauge("headwater_trainer_running", "1 while a cycle is under way", registry=registry)
        self.info = Gauge("headwater_trainer_info", "1 for the generation that is trained from", ["active"], registry=registry)

    def told(self, outcome: Outcome | None, seconds: float) -> None:
        """Take a cycle's end in; None: it failed."""
        self.seconds.set(seconds)
        if outcome is None:
            self.cycles.labels("failed").inc()
            return
        self.success.set_to_current_time()
        self.memory.set(outcome.peak_bytes)
        gate = outcome.gate
        self.cycles.labels("nothing" if gate is None else "accepted" if gate.passed else "refused").inc()
        for kind, one in (gate.lists if gate is not None else {}).items():
            self.ndcg.labels("active", kind).set(one.active)
            self.ndcg.labels("candidate", kind).set(one.candidate)


class Trainer:
    """Decides when, and starts the cycles.

    Args:
        feed: asked how much is new.
        bulletin: asked what is active.
        registry: where the active generation's offsets stand.
        command: starts a cycle; `--report FILE` is added.
        environ: its environment.
        every_s: time after which a cycle begins.
        after_events: new events after which one begins at once; 0: only by time.
        least_events: new events below which none begins.
        work: a folder in which reports come and go.
        clock: seconds, rising.
    """

    def __init__(
        self,
        *,
        feed: Feed,
        bulletin: Bulletin,
        registry: Registry,
        command: Sequence[str],
        environ: Mapping[str, str],
        every_s: float,
        after_events: int,
        least_events: int,
        work: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._feed, self._bulletin, self._registry = feed, bulletin, registry
        self._command, self._environ, self._work = command, environ, work
        self._every_s, self._after, self._least, self._clock = every_s, after_events, least_events, clock
        self.meters = Meters()
        self._began = clock()  # of the time that `every_s` counts from
        self._read_to: tuple[str, int] | None = None  # log and end offsets, added up, of the last cycle that ended
        self._parent: Manifest | None = None
        self._failures = 0
        self._again_at = 0.0
        self.stopping = threading.Event()

    def run(self) -> None:
        """Look, and train, until told to stop."""
        while not self.stopping.is_set():
            try:
                if self.due():
                    self.cycle()
            except HeadwaterError as error:
                self._failed(str(error))
            self.stopping.wait(LOOK_S)

    def due(self) -> bool:
        """Whether a cycle is to begin now.

        Raises:
            HeadwaterError: broker or registry do not answer.
        """
        now = self._clock()
        if now < self._again_at:
            return False
        new = self.new_events()
        self.meters.new.set(new)
        if new < self._least:
            return False
        return now - self._began >= self._every_s or bool(self._after and new >= self._after)

    def new_events(self) -> int:
        """Events since the last cycle of this trainer, whatever its verdict; before the first since the active generation's offsets."""
        active = self._bulletin.active()
        if active is None:
            return 0
        if self._parent is None or self._parent.id != active:
            self._parent, self._read_to = self._registry.manifest(active), None
            self.meters.info.clear()
            self.meters.info.labels(active).set(1)
        about = self._parent.metrics.get("cycle", {})
        span = self._feed.span(self._parent.offsets.get(EVENTS, []), str(about.get("log", "")), 1 << 62)
        if self._read_to is None or self._read_to[0] != span.log:  # none yet, or of a log that was made anew since
            return span.count
        return max(0, sum(span.ends) - self._read_to[1])

    def cycle(self) -> None:
        """Run one as a process, and take its outcome in."""
        self._work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="trainer-", dir=self._work) as own:  # another trainer may have the same folder
            self._cycle(Path(own) / "report.json")

    def _cycle(self, report: Path) -> None:
        began = self._clock()
        now = self._feed.span([], "", 1 << 62)
        log.info("cycle_begins new_events=%d", self.new_events())
        self.meters.running.set(1)
        command = [*self._command, "--report", str(report)]
        code = self._wait(subprocess.Popen(command, env=dict(self._environ), stdin=subprocess.DEVNULL))  # noqa: S603 - our own
        self.meters.running.set(0)
        seconds = self._clock() - began
        if self.stopping.is_set():
            return
        if code or not report.exists():
            self.meters.told(None, seconds)
            self._failed(f"the cycle ended with {code}: its own lines above say why")
            return
        outcome = msgspec.json.decode(report.read_bytes(), type=Outcome)
        self.meters.told(outcome, seconds)
        self._failures, self._began, self._read_to = 0, self._clock(), (now.log, sum(now.ends))
        log.info("cycle_ended %s", json.dumps({"published": outcome.published, "active": outcome.active, "why": outcome.why}))

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        while process.poll() is None:
            if self.stopping.wait(0.2):
                process.terminate()
                try:
                    process.wait(STOP_S)
                except subprocess.TimeoutExpired:
                    process.kill()
        return process.wait()

    def _failed(self, why: str) -> None:
        wait = min(LONGEST_S, AGAIN_S * 2**self._failures)
        self._failures += 1
        self._again_at = self._clock() + wait
        log.error("cycle_failed again_in_s=%g why=%s", wait, why)


def main(
    *,
    source: tuple[Feed, Callable[[Registry], Bulletin]],
    registry: str,
    registry_cache: Path,
    command: Sequence[str],
    environ: Mapping[str, str],
    host: str,
    port: int,
    every_s: float,
    after_events: int,
    least_events: int,
    work: Path,
) -> int:
    """Run the trainer in this process until SIGTERM or SIGINT; the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    store = Registry(registry, registry_cache)
    feed, bulletin = source
    trainer = Trainer(
        feed=feed,
        bulletin=bulletin(store),
        registry=store,
        command=command,
        environ={**os.environ, **environ},
        every_s=every_s,
        after_events=after_events,
        least_events=least_events,
        work=work,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: trainer.stopping.set())
    with serve(host, port, trainer.meters.registry):
        log.info("trainer_ready web=http://%s:%d every_s=%g after_events=%d", host, port, every_s, after_events)
        trainer.run()
    return 0


class _Web(ThreadingMixIn, WSGIServer):
    """A thread for each connection: an idle one keeps nobody else waiting."""

    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    timeout = REQUEST_S

    def handle(self) -> None:
        """One that says nothing in time, or goes away, is no event either."""
        with suppress(TimeoutError, ConnectionError):
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - upstream's signature
        """A look at the metrics is no event."""


@contextmanager
def serve(host: str, port: int, registry: CollectorRegistry) -> Iterator[None]:
    """/healthz and /metrics in a thread, while inside.

    Raises:
        OSError: the address is taken.
    """
    metrics = make_wsgi_app(registry)

    def answer(environ: dict[str, Any], start: Any) -> Any:
        if environ.get("PATH_INFO") == "/healthz":
            start("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
            return [b"ok\n"]
        return metrics(environ, start)

    try:
        server = make_server(host, port, answer, server_class=_Web, handler_class=_Quiet)
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"{host}:{port}") from error
    threading.Thread(target=server.serve_forever, name="web", daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
