"""The worker under measurement: a real `headwater worker` process with an installation of its own."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Self

from engine.errors import HeadwaterError
from streams import topics
from streams.settings import Settings, load

TICKS = os.sysconf("SC_CLK_TCK")
READY_S = 90.0


class Backfilled(NamedTuple):
    """What a backfill printed last, and what it took, its start included."""

    printed: str
    seconds: float
    cpu_s: float
    rss_mb: float


class Subject:
    """Starts a worker and reads its counters."""

    def __init__(self, bootstrap: str, registry: str, *, lists: bool = True, settings: Mapping[str, str] | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="headwater-bench-")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self._env = {
            "HEADWATER_BROKER": f"kafka://{bootstrap}",
            "HEADWATER_PREFIX": f"bench{time.time_ns() // 1_000_000}.",
            "HEADWATER_STATE_DIR": f"{self._folder.name}/state",
            "HEADWATER_REGISTRY": str(Path(registry).resolve()),
            "HEADWATER_WEB_PORT": str(self._port),
            "HEADWATER_PARTITIONS": "4",
            "HEADWATER_LOG_LEVEL": "warning",
            **(settings or {}),
        }
        self._lists = lists
        self.lists = 0.0  # made, once it has ended
        self.settings: Settings = load(self._env)
        self.names = topics.Names.under(self.settings.prefix)
        client = topics.admin(self.settings)
        topics.create(client, topics.topics(self.settings))
        self.is_mock = topics.look(client).is_mock

    @property
    def environ(self) -> dict[str, str]:
        """What a process of this installation is told, and nothing of another one's."""
        return {k: v for k, v in os.environ.items() if not k.startswith("HEADWATER_")} | self._env

    def start(self) -> Self:
        """Start the process and wait until it makes lists.

        Raises:
            HeadwaterError: it did not get ready.
        """
        command = [sys.executable, "-m", "streams.cli", "worker", *([] if self._lists else ["--no-lists"])]
        self._process = subprocess.Popen(command, env=self.environ, cwd=Path(__file__).resolve().parent.parent)
        until = time.monotonic() + READY_S
        while time.monotonic() < until and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/readyz", timeout=1):
                    return self
            except OSError:
                time.sleep(0.1)
        raise HeadwaterError("worker_not_ready", f"no answer within {READY_S:g} s", "a ready worker", "read what it printed above")

    def counter(self, name: str) -> float:
        """The sum of a metric over its labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        return sum(float(value) for value in re.findall(rf"^{re.escape(name)}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE))

    def generation(self) -> str:
        """The generation in use."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=10) as answer:
            found = re.search(r'^headwater_generation_info\{generation="([^"]*)"\} 1', answer.read().decode(), re.MULTILINE)
        return found[1] if found else ""

    def applied(self) -> int:
        """Events in state."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=10) as answer:
            found = re.search(r'^headwater_events_total\{outcome="applied"\} (\S+)$', answer.read().decode(), re.MULTILINE)
        return int(float(found[1])) if found else 0

    def cpu_s(self) -> float:
        """Processor seconds used so far."""
        parts = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(parts[11]) + int(parts[12])) / TICKS

    def backfill(self) -> Backfilled:
        """Run `headwater backfill` to its end.

        Raises:
            HeadwaterError: it failed.
        """
        environ = {k: v for k, v in os.environ.items() if not k.startswith("HEADWATER_")}
        command = [sys.executable, "-m", "streams.cli", "backfill"]
        root = Path(__file__).resolve().parent.parent
        began = time.perf_counter()
        with tempfile.TemporaryFile() as out:
            process = subprocess.Popen(command, env={**environ, **self._env}, cwd=root, stdout=out)
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            seconds = time.perf_counter() - began
            out.seek(0)
            printed = out.read().decode().strip()
        self._folder.cleanup()
        if process.returncode:
            raise HeadwaterError("backfill_failed", f"exit status {process.returncode}", "0", "read what it printed above")
        return Backfilled(printed, seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)

    def end(self) -> None:
        """Stop the process; it makes its last checkpoint."""
        self.lists = self.counter("headwater_lists_total")
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def stop(self) -> None:
        """Stop the process, if it still runs, and remove its state."""
        if self._process.poll() is None:
            self.end()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
