"""A broker for demo and tests that comes with pip: librdkafka's mock cluster in a process of its own. Not durable, and not for production.

It keeps everything in memory (about 5 MB a partition), compacts nothing, makes a topic when it is first asked for, and gives each topic
the same number of partitions. `python -m streams.embedded` prints the bootstrap address as its only line on standard output, and lives
until its standard input closes or SIGTERM comes: so it never outlives whoever started it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from engine.errors import BrokerError

PARTITIONS = 4
"""Partitions of every topic: librdkafka's constant for topics that its mock cluster makes by itself."""
START_S = 20.0
"""Seconds to wait for the address: the process imports and binds in 0.3 s on an idle machine."""


class EmbeddedBroker:
    """The process, as a context manager.

    ``bootstrap`` is its address, host:port, once started.
    """

    def __init__(self) -> None:
        self.bootstrap = ""
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> Self:
        """Start the process and wait for its address.

        Raises:
            BrokerError: it ended without giving one.
        """
        root = str(Path(__file__).resolve().parent.parent)  # also when the package is not installed
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "streams.embedded"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C ends the demo in its own order, the broker last
        )
        stdout = self._process.stdout
        self.bootstrap = "" if stdout is None else stdout.readline().strip()
        if not self.bootstrap:
            code = self._process.wait(START_S)
            self.stop()
            raise BrokerError(
                "embedded_broker",
                f"the embedded broker ended with {code}",
                "its address on standard output",
                "run `python -m streams.embedded` to see why",
                retryable=True,
            )
        return self

    def stop(self) -> None:
        """End the process; what it held is gone."""
        process, self._process = self._process, None
        if process is None:
            return
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()  # a closed standard input ends it
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def main() -> None:
    """Run the mock cluster until standard input closes."""
    from confluent_kafka import Producer  # noqa: PLC0415 - whoever only starts the process needs no client

    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cluster = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    brokers = cluster.list_topics(timeout=START_S).brokers.values()
    print(",".join(f"{broker.host}:{broker.port}" for broker in brokers), flush=True)  # noqa: T201 - its interface
    sys.stdin.read()
    os._exit(0)  # no tidy end is needed, and librdkafka's takes a second


if __name__ == "__main__":
    main()
