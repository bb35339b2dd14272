"""Child processes with a log each: started, watched, stopped in the reverse order. No supervisor: none is started again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from engine.errors import HeadwaterError, shorten

ROOT = Path(__file__).resolve().parent.parent
STOP_S = 10.0
"""Seconds that a child may take to end by itself: a worker's last checkpoint and its leaving of the group take about one."""
READY_S = 60.0
TAIL_LINES = 12
TAIL_CHARS = 400
"""Characters of such a line: a traceback in one line of key=value has thousands."""


@dataclass(frozen=True, slots=True)
class Child:
    """A running process; `log` is where its output goes, None where it goes to ours."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path | None

    def check(self) -> None:
        """Say so when it has ended by itself.

        Raises:
            HeadwaterError: it has.
        """
        code = self.process.poll()
        if code is not None:
            remedy = f"read {self.log}" if self.log else "read its output above"
            raise HeadwaterError("process_ended", f"{self.name} ended with {code}", "a process that runs", remedy)

    def until_ready(self, url: str, seconds: float = READY_S, stopped: Callable[[], bool] = lambda: False) -> None:
        """Return when `url` answers with success, or when nobody waits any more.

        Raises:
            HeadwaterError: it has ended, or does not answer so in time.
        """
        late, said = time.monotonic() + seconds, "no answer"
        while not stopped():
            self.check()
            try:
                with urllib.request.urlopen(url, timeout=2):  # noqa: S310 - our own address
                    return
            except urllib.error.HTTPError as error:
                with error:
                    said = error.read().decode(errors="replace").strip()
            except OSError as error:
                said = str(error)
            if time.monotonic() > late:
                remedy = f"read {self.log}"
                raise HeadwaterError("not_ready", f"after {seconds:g} s: {said}", f"{self.name} ready", remedy, retryable=True)
            time.sleep(0.1)

    def stop(self) -> None:
        """End it: asked to, and after some seconds without asking."""
        if self.process.poll() is None:
            with suppress(ProcessLookupError):
                self.process.terminate()
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()


class Children:
    """Processes that live as long as this context; they are sessions of their own, so that Ctrl-C reaches only us and the order is ours."""

    def __init__(self) -> None:
        self._children: list[Child] = []

    def start(self, name: str, arguments: Sequence[str], environ: Mapping[str, str], log: Path | None = None) -> Child:
        """Start `headwater` with arguments; its output goes to `log`, or to our standard error."""
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "streams.cli", *arguments]
        path = os.pathsep.join(filter(None, (str(ROOT), environ.get("PYTHONPATH", ""))))  # also when the package is not installed
        with log.open("wb") if log else os.fdopen(os.dup(2), "wb") as output:
            process = subprocess.Popen(  # noqa: S603 - our own command
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**environ, "PYTHONPATH": path},
                start_new_session=True,
            )
        child = Child(name, process, log)
        self._children.append(child)
        return child

    def run(self, name: str, arguments: Sequence[str], environ: Mapping[str, str]) -> None:
        """Run `headwater` with arguments to its end; its output is seen.

        Raises:
            HeadwaterError: it failed.
        """
        child = self.start(name, arguments, environ)
        code = child.process.wait()
        self._children.remove(child)
        if code:
            raise HeadwaterError("process_failed", f"{name} ended with {code}", "exit status 0", "read its output above")

    def forget(self, child: Child) -> None:
        """Take a child out that was meant to end."""
        self._children.remove(child)

    def check(self) -> None:
        """Say so when one has ended.

        Raises:
            HeadwaterError: one has.
        """
        for child in self._children:
            child.check()

    def stop(self) -> None:
        """End all, the youngest first."""
        while self._children:
            self._children[-1].stop()
            self._children.pop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # an impatient second Ctrl-C must not leave a process behind
        try:
            self.stop()
        finally:
            signal.signal(signal.SIGINT, before)


def free_port() -> int:
    """A port of this machine that nobody listened on a moment ago."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def tail(log: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log, "" when there is none."""
    try:
        last = log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
        return "\n".join(shorten(line, TAIL_CHARS) for line in last)
    except OSError:
        return ""
